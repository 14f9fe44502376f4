package callbacks

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/internal/callbacks"
)

// Reasons for which a callback has nothing to run.
const (
	byUser    = "users call it, and do not implement it"
	onCallers = "it runs on the goroutine of the user who called, while he waits"
	nested    = "its methods, or what it is given to, have rows of their own"
	ofTests   = "it is part of a test of the user's, and runs on the test's goroutine"
	nobody    = "nothing calls it but the user's own program"
	ofFranz   = "it goes to franz-go as it is, which is documented"
)

// TestEveryCallback: a panic, a Goexit and an error that cannot be used, in every function and
// method that a user gives to a public package, ends no process and leaves nobody waiting; the
// failure says where it was. A new callback has a row in one of the tables, or this test fails.
func TestEveryCallback(t *testing.T) {
	rows := map[string]row{}
	for _, table := range []map[string]row{asyncRows, streamRows, sidecarRows, serverRows, connectorRows, ferryRows, otherRows} {
		for name := range table {
			if _, twice := rows[name]; twice {
				t.Errorf("%s has two rows", name)
			}
		}
		maps.Copy(rows, table)
	}
	// which is generated, but for options of our own
	known, err := callbacks.List("../..", "sidecar/oip")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range known {
		if _, ok := rows[name]; !ok {
			t.Errorf("%s has no row; say in this test what becomes of a mistake in it", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		r := rows[name]
		name, extra := strings.CutPrefix(name, "+")
		if !extra && !slices.Contains(known, name) {
			t.Errorf("%s has a row, and is no callback", name)
		}
		if (r.run == nil) == (r.why == "") {
			t.Errorf("%s: want either something to run or a reason", name)
		}
		if r.run == nil {
			continue
		}
		for _, m := range mistakes {
			if strings.HasPrefix(m.name, "an error") && !r.returns {
				continue
			}
			t.Run(name+"/"+m.name, func(t *testing.T) {
				tr := &trap{at: name, mistake: m}
				err := r.run(t, tr)
				if tr.sprung.Load() == 0 {
					t.Fatalf("it was never called; the end was %v", err)
				}
				check := r.check
				if check == nil {
					check = broken
				}
				check(t, r, tr, err)
			})
		}
	}
}

// otherRows are those of packages that only pass on, and of tests.
var otherRows = map[string]row{
	"connector/connectortest.Input.New":      {why: ofTests},
	"connector/connectortest.Input.Text":     {why: ofTests},
	"connector/connectortest.Pair.Open":      {why: ofTests},
	"connector/connectortest.Pair.Published": {why: ofTests},
	"connector/connectortest.Pair.Store":     {why: ofTests},
	"connector/connectortest.Pair.StoreOf":   {why: ofTests},
	"job/embedded.Start(log)":                {why: nested},
	"job/embedded.Start(tracer)":             {why: nested},
	"job/inference.Letters.File":             {why: nested}, // in what stream.Map calls
	"job/inference.Letters.Where":            {why: nested},
	"job/inference.NewFunction(observe)":     {why: nested},
	"job/local.Options.Logger":               {why: nested},
	"job/local.Options.Observers":            {why: nested},
	"job/local.Options.Request":              {why: nested}, // in sidecar.Config.Observe
	"job/local.Options.Started":              {why: onCallers},
	"job/local.Options.Stdout":               {why: nested},
	"job/kafkatopics.Brokers(log)":           {why: nested},
	"job/kafkatopics.Encoder(where)":         {why: nested}, // in connector/kafka.Encode
	"job/kafkatopics.LetterEncoder(where)":   {why: nested},
	"job/kafkatopics.NewSink(encode)":        {why: nested},
	"job/kafkatopics.NewSink(log)":           {why: nested},
	"job/kafkatopics.NewSource(log)":         {why: nested},
	"job/kafkatopics.Where":                  {why: nested},
	"sidecar/backend/mock.Config.OnCrash":    {why: nested}, // in backend.Model.Run
	"sidecar/endpoint.FromAddr(a)":           {why: onCallers},
	"sidecar/endpoint.Hears(c)":              {why: nested}, // it calls none of a user's own type
	"sidecar/endpoint.PeerUser(c)":           {why: onCallers},
	"sidecar/sidecartest.Proxy.Alter(alter)": {why: ofTests},
	"sidecar/sidecartest.Script.OnCrash":     {why: nested},
	"sidecar/sidecartest.Script.OnEnd":       {why: nested}, // in an interceptor
	"sidecar/sidecartest.Script.OnStart":     {why: nested},
	"sidecar/sidecartest.Script.Options":     {why: nested},
	"sidecar/sidecartest.Script.Refuse":      {why: nested}, // in an interceptor
	"sidecar/sidecartest.Script.Tracer":      {why: nested},
	"sidecar/sidecartest.Server.Dial(opts)":  {why: onCallers},
	"sidecar/sidecartest.Server.Wait(until)": {why: ofTests},
	"sidecar/sidecartest.Start(t)":           {why: ofTests},
	"sidecar/sidecartest.StartAt(t)":         {why: ofTests},
	"sidecar/sidecartest.StartProxy(t)":      {why: ofTests},
	"sidecar/sidecartest.TB.Cleanup":         {why: ofTests},
	"sidecar/sidecartest.TB.Fatalf":          {why: ofTests},
	"sidecar/sidecartest.TB.Helper":          {why: ofTests},
	"stream/checkpoint.Describe(w)":          {why: onCallers},
	"stream/checkpoint.Options.FS":           {why: "it is of an internal package"},
	"stream/checkpoint.Options.Logger":       {why: nested},
	"async/asynctest.Harness.Until(cond)":    {why: ofTests},
	"async/asynctest.Manual.Answer(f)":       {why: ofTests},
	"async/asynctest.Manual.Open(done)":      {why: byUser},
	"async/asynctest.New(fn)":                {why: nested},
	"async/asynctest.New(t)":                 {why: ofTests},
	"async/asynctest.Restore(fn)":            {why: nested},
	"async/asynctest.Restore(t)":             {why: ofTests},
	"async/asynctest.TB.Cleanup":             {why: ofTests},
	"async/asynctest.TB.Errorf":              {why: ofTests},
	"async/asynctest.TB.Fatalf":              {why: ofTests},
	"async/asynctest.TB.Helper":              {why: ofTests},
	"trace/oteltrace.New(provider)":          {why: nested}, // in trace.Tracer
}
