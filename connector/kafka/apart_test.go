package kafka

import (
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
)

// What a job writes is never its own input.
func TestApart(t *testing.T) {
	encode := func(*async.Record[[]byte]) (*Record, error) { return &Record{}, nil }
	at := func(brokers ...string) Config { return Config{Brokers: brokers} }
	for name, tt := range map[string]struct {
		from  Topics
		at    Config
		to    string
		apart bool
	}{
		"another topic":            {Topics{Names: []string{"a", "b"}}, at("h:1"), "c", true},
		"one of them":              {Topics{Names: []string{"a", "b"}}, at("h:1"), "b", false},
		"a pattern":                {Topics{Pattern: "digits-.*"}, at("h:1"), "digits-out", false},
		"a pattern of other names": {Topics{Pattern: "digits-.*"}, at("h:1"), "my-digits-out", true},
		"part of a name":           {Topics{Pattern: "digits"}, at("h:1"), "digits-out", true},
		"a hidden topic":           {Topics{Pattern: ".*"}, at("h:1"), "__out", true},
		"one broker in common":     {Topics{Names: []string{"a"}}, at("g:1", "H:1"), "a", false},
		"no port":                  {Topics{Names: []string{"a"}}, at("I"), "a", false},
		"another port":             {Topics{Names: []string{"a"}}, at("j"), "a", true},
		"this machine":             {Topics{Names: []string{"a"}}, at("127.0.0.1:7"), "a", false},
		"this machine, IPv6":       {Topics{Names: []string{"a"}}, at("[::1]:7"), "a", false},
		"another cluster":          {Topics{Names: []string{"a"}}, at("g:1"), "a", true},
		"a topic for each record":  {Topics{Names: []string{"a"}}, at("h:1"), "", true},
	} {
		sink := NewSink(SinkConfig[[]byte]{Config: tt.at, Topic: tt.to, Encode: encode})
		var source connector.Source[[]byte] = NewSource(SourceConfig[[]byte]{Config: at("h:1", "i:9092", "localhost:7", "j:1"), Topics: tt.from, Decode: Raw[[]byte]})
		check := func(what string, source connector.Source[[]byte], apart bool, own ...any) {
			err := source.(connector.LoopChecker).CheckLoop(t.Context(), own...)
			if (err == nil) != apart || err != nil && !strings.Contains(err.Error(), "the topic "+tt.to+" is the job's own output") {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		check("a source", source, tt.apart, "something", sink)
		g := NewGroup(GroupConfig{Config: at("h:1", "i:9092", "localhost:7", "j:1"), Topics: tt.from, Group: "g"})
		group := GroupSource(g, Raw[[]byte])
		check("a group", group, tt.apart, sink)
		// Its sinks write where it reads, whatever their configuration says.
		same := tt.apart && name != "another cluster" && name != "another port"
		check("a group's sink", group, same, GroupSink(g, SinkConfig[[]byte]{Topic: tt.to, Encode: encode}))
	}
	// A source that is set up wrongly says so elsewhere.
	wrong := NewSource(SourceConfig[[]byte]{Config: at("h:1"), Topics: Topics{Pattern: "("}, Decode: Raw[[]byte]})
	if err := wrong.CheckLoop(t.Context(), NewSink(SinkConfig[[]byte]{Config: at("h:1"), Topic: "a", Encode: encode})); err != nil {
		t.Error(err)
	}
}
