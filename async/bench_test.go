package async_test

import (
	"context"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

type contextT = context.Context

// instant answers every call from inside Call.
type instant struct {
	done async.Completer[int]
	cs   []async.Completion[int]
}

func (f *instant) Open(_ context.Context, _ async.Subtask, done async.Completer[int]) (async.Caller[int, int], error) {
	f.done = done
	return f, nil
}

func (f *instant) Call(batch []async.Call[int]) {
	f.cs = f.cs[:0]
	for i := range batch {
		f.cs = append(f.cs, async.Completion[int]{ID: batch[i].ID, Outputs: async.One(batch[i].Record.Value)})
	}
	f.done.Complete(f.cs)
}

func (f *instant) Cancel([]async.CallID)     {}
func (f *instant) Close() error              { return nil }
func (f *instant) Emit([]async.Record[int])  {}
func (f *instant) Watermark(async.Watermark) {}

// BenchmarkOperator is the operator's own cost for a record: admission, call,
// completion through the inbox, emission.
func BenchmarkOperator(b *testing.B) {
	for _, order := range []async.Order{async.Ordered, async.Unordered} {
		b.Run(order.String(), func(b *testing.B) {
			f := &instant{}
			op, err := async.NewOperator(f, async.Config{Order: order}, async.Subtask{}, func() {})
			if err != nil {
				b.Fatal(err)
			}
			if err := op.Open(b.Context()); err != nil {
				b.Fatal(err)
			}
			defer op.Close()
			recs := make([]async.Record[int], 256)
			b.ReportAllocs()
			for n := 0; n < b.N; n += len(recs) {
				op.Admit(recs)
				for range 2 {
					if _, err := op.Step(time.Now(), 1000, f); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
