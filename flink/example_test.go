package flink_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/flink"
)

// Word and Length are what goes in and what comes out. Their fields are exported, since Beam
// carries them.
type Word struct{ Text string }

type Length struct {
	Text   string
	Length int
}

// Measure makes the function on the workers. It travels there as JSON. A function that asks a model
// server is made with sidecar.NewAsyncFunction.
type Measure struct{ Workers int }

// Function implements flink.Maker.
func (m Measure) Function() (async.Function[Word, Length], error) {
	return async.Func(func(_ context.Context, w Word) (Length, error) {
		if w.Text == "" {
			return Length{}, fmt.Errorf("no text")
		}
		return Length{w.Text, len(w.Text)}, nil
	}, m.Workers), nil
}

func printLength(l Length)             { fmt.Println(l.Text, l.Length) }
func printFailed(f flink.Failed[Word]) { fmt.Println("failed:", f.Class, f.Attempts) }

func init() {
	flink.Register[Word, Length, Measure]()
	register.Function1x0(printLength)
	register.Function1x0(printFailed)
}

// A pipeline runs on Beam's local runner as on Flink, for which package submit submits it.
func Example() {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the local runner says much
	p, s := beam.NewPipelineWithRoot()
	words := beam.Create(s, Word{"Elbe"}, Word{""}, Word{"Donaudampfschiff"})
	lengths, failed := flink.Infer[Word, Length](s, words, Measure{Workers: 4}, flink.Config{
		Name:  "measure",
		Async: async.Config{Capacity: 100, Timeout: time.Second, OnError: async.OnError{Backend: async.DeadLetter}},
	})
	beam.ParDo0(s, printLength, lengths)
	beam.ParDo0(s, printFailed, failed)
	if _, err := beam.Run(context.Background(), "prism", p); err != nil {
		fmt.Println(err)
	}
	// Unordered output:
	// Elbe 4
	// Donaudampfschiff 16
	// failed: backend 1
}

// The error of a job, and Flink's own exceptions, hold what failed as one line.
func ExampleFailureIn() {
	text := `java.lang.RuntimeException: Error received from SDK harness for instruction 7: DoFn[UID:2] failed:
tensorferry {"operator":"infer","class":"permanent","code":"NOT_FOUND","reason":"MODEL_NOT_FOUND","model":"digits","split":0,"position":17,"message":"no such model"}
	at org.apache.beam.runners.fnexecution.control.FnApiControlClient`
	if f := flink.FailureIn(text); f != nil {
		fmt.Println(strings.Join([]string{f.Operator, f.Class, f.Reason, f.Message}, ", "))
	}
	// Output: infer, permanent, MODEL_NOT_FOUND, no such model
}
