package flink

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
)

// flinkText is how Flink's history shows the error of a transform.
const flinkText = `org.apache.flink.runtime.JobException: Recovery is suppressed by FixedDelayRestartBackoffTimeStrategy(maxNumberRestartAttempts=2, backoffTimeMS=200)
	at org.apache.flink.runtime.executiongraph.failover.ExecutionFailureHandler.handleFailure(ExecutionFailureHandler.java:219)
	at java.base/java.lang.Thread.run(Thread.java:840)
Caused by: java.lang.RuntimeException: Error received from SDK harness for instruction 12: process bundle failed for instruction 12 using plan 1-5 : while executing Process for Plan[1-5]:
1: DataSource[S[ptransform-3@localhost:41977], i1] Out:2 Coder:W;c2<R[flink.Record];c1>!GWC
2: ParDo[flink.recordFn[tensorferry {not this one}]] Out:[3 4] Sig: func(context.Context, mtime.Time, flink.Record) error, SideInputs: []
	caused by:
source failed
	caused by:
DoFn[UID:2, PID:infer/flink.recordFn, Name: flink.recordFn] failed:
%s
	at org.apache.beam.runners.fnexecution.control.FnApiControlClient$ResponseStreamObserver.onNext(FnApiControlClient.java:213)
	at org.apache.beam.vendor.grpc.v1p69p0.io.grpc.stub.ServerCalls$StreamingServerCallHandler$StreamingServerCallListener.onMessage(ServerCalls.java:262)
	Suppressed: java.lang.IllegalStateException: Processing bundle failed, TODO: [https://github.com/apache/beam/issues/18756] abort bundle.
	... 3 more
`

func TestFailureIn(t *testing.T) {
	server := &sidecar.Error{Code: "NOT_FOUND", Reason: "MODEL_NOT_FOUND", Model: "digits", Endpoint: "unix:///run/model.sock", Class: async.Permanent}
	for name, err := range map[string]error{
		"plain":       errors.New("out of memory"),
		"quotes":      errors.New(`the field "x" is 'y' \ {"a": [1, 2}`),
		"lines":       errors.New("first\nsecond\r\n\tthird\u2028fourth\u2029fifth\u0085sixth"),
		"not UTF-8":   errors.New("\xff\xfe broken \xc3"),
		"nested":      errors.New(`tensorferry {"operator":"other","class":"timeout"}`),
		"empty":       errors.New(""),
		"long":        errors.New(strings.Repeat(`<&>"`, 50_000)),
		"of a record": &async.RecordError{Operator: "infer", Split: 4, Position: 99, Attempts: 2, Class: async.Timeout, Err: async.ErrTimeout},
		"of a server": fmt.Errorf("open: %w", server),
	} {
		t.Run(name, func(t *testing.T) {
			f := failureOf("infer", err)
			if !errors.Is(f, err) {
				t.Error("the cause is lost")
			}
			line := f.Error()
			if strings.ContainsAny(line, "\n\r\v\f\u0085\u2028\u2029") {
				t.Errorf("it is several lines: %q", line)
			}
			got := FailureIn(fmt.Sprintf(flinkText, line))
			if got == nil {
				t.Fatalf("nothing is found of %s", line)
			}
			want := *f
			want.cause, want.Message = nil, strings.ToValidUTF8(f.Message, "\ufffd")
			if name == "not UTF-8" { // each byte has its own
				want.Message = "\ufffd\ufffd broken \ufffd"
			}
			if *got != want {
				t.Errorf("found %+v\nwant  %+v", *got, want)
			}
		})
	}
	f := failureOf("infer", &async.RecordError{Split: 4, Position: 99, Class: async.Permanent, Err: server})
	if f.Split != 4 || f.Position != 99 || f.Class != "permanent" || f.Code != "NOT_FOUND" || f.Reason != "MODEL_NOT_FOUND" || f.Model != "digits" || f.Endpoint != server.Endpoint {
		t.Errorf("%+v", f)
	}
}

func TestNoFailureIn(t *testing.T) {
	for _, text := range []string{
		"", "tensorferry", "tensorferry {", "tensorferry {}", `tensorferry {"class":"timeout"}`, `tensorferry {"operator":1}`, `tensorferry {"operator":"infer"`,
		`tensorferry ["operator"]`, fmt.Sprintf(flinkText, "something else"), strings.Repeat("tensorferry {", 10_000),
	} {
		if f := FailureIn(text); f != nil {
			t.Errorf("found %+v in %.100q", f, text)
		}
	}
}

func FuzzFailure(f *testing.F) {
	f.Add("infer", "out of memory", `tensorferry {"operator":"a","split":1}`, " at x.y")
	f.Add("a b", "\xff\n\u2028\"", "tensorferry {", "}")
	f.Add("ü", "", "", "\u0085")
	f.Fuzz(func(t *testing.T, operator, message, before, after string) {
		FailureIn(message)
		line := failureOf(operator, errors.New(message)).Error()
		if strings.ContainsAny(line, "\n\r\v\f\u0085\u2028\u2029") || !utf8.ValidString(line) {
			t.Errorf("it is no line: %q", line)
		}
		if operator == "" || strings.Contains(before, "tensorferry") || strings.HasPrefix("tensorferry ", before) {
			return
		}
		got := FailureIn(before + " " + line + after)
		if got == nil || got.Class != "backend" || got.Split != -1 || utf8.ValidString(message) && got.Message != message {
			t.Errorf("found %+v of %q", got, line)
		}
	})
}
