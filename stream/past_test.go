package stream_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

var keepPast = flag.String("keep-past", "", "the commit for which checkpoints are kept in testdata/past")

type pastInner struct {
	ID   int64  `json:"id"`
	Note string `json:"note,omitempty"`
}

type pastStruct struct {
	pastInner
	Name    string
	Score   float32 `json:"score"`
	Big     uint64  `json:",string"`
	Bytes   []byte
	Next    *pastStruct    `json:"next,omitempty"`
	At      time.Time      `json:"at"`
	Took    time.Duration  `json:"took"`
	Counts  map[string]int `json:"counts"`
	Names   map[int]string
	Array   [3]int8
	Address netip.Addr
	Raw     json.RawMessage
	N       *big.Int
	Some    *bool
}

func pastStructs() []pastStruct {
	yes := true
	whole := pastStruct{
		pastInner: pastInner{ID: math.MinInt64, Note: "a \u2028 <b> & \"c\""}, Name: "häuser \U0001F600", Score: 0.1, Big: math.MaxUint64,
		Bytes: []byte{0, 255, '<'}, Next: &pastStruct{Name: "next"}, At: time.Date(2026, 1, 2, 3, 4, 5, 678, time.FixedZone("", 5400)),
		Took: time.Hour, Counts: map[string]int{"a": 1, "": 2}, Names: map[int]string{-1: "x"}, Array: [3]int8{1, -2, 3},
		Address: netip.MustParseAddr("fe80::1%eth0"), Raw: json.RawMessage(`{"a":1.50}`), N: big.NewInt(1).Lsh(big.NewInt(1), 200), Some: &yes,
	}
	return []pastStruct{{}, whole, {Name: "third"}, whole, {Bytes: []byte{}, Counts: map[string]int{}}, whole}
}

// pastType is a pipeline whose records are of one type.
type pastType struct {
	name  string
	want  []string
	build func(j *stream.Job, hang chan<- struct{})
}

// pastOf makes a pipeline of some values. With hang, only the first two are answered, and each
// other call is reported there.
func pastOf[T any](name string, values ...T) pastType {
	show := func(v T) string {
		if raw, ok := any(v).(json.RawMessage); ok {
			return string(raw)
		}
		text, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return string(text)
	}
	p := pastType{name: name}
	for _, v := range values {
		p.want = append(p.want, show(v))
	}
	p.build = func(j *stream.Job, hang chan<- struct{}) {
		var calls atomic.Int32
		fn := async.Func(func(ctx context.Context, v T) (string, error) {
			if hang != nil && calls.Add(1) > 2 {
				hang <- struct{}{}
				<-ctx.Done()
				return "", ctx.Err()
			}
			return show(v), nil
		}, 0)
		records := stream.From(j, stream.FromSlice(values), stream.Name(name), stream.Parallel(1))
		stream.To(stream.UnorderedWait(records, fn, async.Config{}, stream.Name(name+"-wait")),
			file.NewSink(file.SinkConfig[string]{Dir: filepath.Join("out", name), Encode: file.JSONLine[string]}), stream.Name(name+"-out"))
	}
	return p
}

var pastTypes = []pastType{
	pastOf("int", math.MinInt64, -1, 0, 1, math.MaxInt64),
	pastOf("float", 0.1, 0.0, math.MaxFloat64, math.SmallestNonzeroFloat64, 1e21),
	pastOf("text", "", "a", "<&>\u2028\x00\x7f", "\U0001F600", "null", `"`),
	pastOf("truth", true, false, true),
	pastOf("bytes", nil, []byte{}, []byte{1, 2, 255}, []byte("abc"), nil),
	pastOf("raw", json.RawMessage(`{"a" : 1.00}`), json.RawMessage("null"), json.RawMessage(` [1, "<"] `), json.RawMessage("not json"), json.RawMessage("\xff")),
	pastOf("number", json.Number("1.50"), "0", "1e400", "-12345678901234567890"),
	pastOf("time", time.Time{}, time.Unix(0, 1).UTC(), time.Date(2026, 2, 3, 4, 5, 6, 7, time.FixedZone("", -3600)), time.Unix(1, 0).UTC()),
	pastOf("struct", pastStructs()...),
	pastOf("pointer", nil, &pastInner{ID: 1}, nil, &pastInner{ID: 2, Note: "x"}),
	pastOf("map", nil, map[string][]int{}, map[string][]int{"a": {1, 2}, "b": nil, "c": {}}, map[string][]int{"": {0}}),
	pastOf("list", nil, []pastInner{}, []pastInner{{ID: 3}}, []pastInner{{}, {}}),
	pastOf("text-marshaler", netip.MustParseAddr("::1"), netip.Addr{}, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")),
	pastOf("json-marshaler", big.NewInt(1), nil, big.NewInt(-5), new(big.Int).Lsh(big.NewInt(3), 100)),
}

// runPast runs all pipelines as one job: until the calls hang and it is stopped, or to the end.
func runPast(t *testing.T, leave bool) {
	store, err := checkpoint.Open("checkpoints", checkpoint.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	begun, err := store.Resume("types")
	if err != nil {
		t.Fatal(err)
	}
	j := stream.New("types", stream.Config{
		Checkpoint: stream.CheckpointConfig{Interval: time.Hour, Store: store},
		RunID:      begun.ID, Resume: begun.Restore, Attempt: begun.Attempt, LastID: begun.LastID,
	})
	var hang chan struct{}
	left := 0
	if leave {
		hang = make(chan struct{})
	}
	for _, p := range pastTypes {
		p.build(j, hang)
		left += len(p.want) - 2
	}
	run := j.Start(t.Context())
	if !leave {
		if err := run.Wait(); err != nil {
			t.Error(err)
		}
		return
	}
	for range left {
		select {
		case <-hang:
		case <-run.Done():
			t.Fatal(run.Wait())
		}
	}
	run.Stop()
	if err := run.Wait(); !errors.Is(err, stream.ErrStopped) {
		t.Fatal(err)
	}
}

// TestTypesOfThePast: records in flight of every kind of type come back from a checkpoint, also
// from one of an earlier commit. testdata/past/README.md says how it was made.
func TestTypesOfThePast(t *testing.T) {
	kept, err := filepath.Abs("testdata/past")
	if err != nil {
		t.Fatal(err)
	}
	commits, err := os.ReadDir(kept)
	if err != nil {
		t.Fatal(err)
	}
	check := func(t *testing.T) {
		runPast(t, false)
		for _, p := range pastTypes {
			parts, err := filepath.Glob(filepath.Join("out", p.name, "part-*"))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, name := range parts {
				b, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				for line := range strings.Lines(string(b)) {
					var text string
					if err := json.Unmarshal([]byte(line), &text); err != nil {
						t.Fatal(err)
					}
					got = append(got, text)
				}
			}
			want := slices.Clone(p.want)
			for i := range want {
				want[i] = strings.ToValidUTF8(want[i], "\uFFFD") // the sink writes JSON
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s: the results are\n%q\nwant\n%q", p.name, got, want)
			}
		}
	}
	t.Run("today", func(t *testing.T) {
		t.Chdir(t.TempDir())
		runPast(t, true)
		if *keepPast != "" {
			if err := os.CopyFS(filepath.Join(kept, *keepPast), os.DirFS(".")); err != nil {
				t.Fatal(err)
			}
		}
		check(t)
	})
	for _, c := range commits {
		if !c.IsDir() {
			continue
		}
		t.Run(c.Name(), func(t *testing.T) {
			t.Chdir(t.TempDir())
			if err := os.CopyFS(".", os.DirFS(filepath.Join(kept, c.Name()))); err != nil {
				t.Fatal(err)
			}
			check(t)
		})
	}
}
