package stream_test

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream"
)

type frame struct {
	Camera string
	Pixels []byte
}

// frames is a source without an end that counts what it has given, in as many records as it is
// asked for.
type frames struct {
	each  int
	given *atomic.Int64
	at    int64
}

func (f *frames) Splits(context.Context) ([]connector.Split, error) {
	return []connector.Split{{Data: []byte("camera")}}, nil
}
func (f *frames) Verify(context.Context, []connector.Split, []int64) error { return nil }
func (f *frames) Open(_ context.Context, _ connector.Split, at int64) (connector.Reader[frame], error) {
	return &frames{f.each, f.given, at}, nil
}
func (f *frames) Close() error { return nil }

func (f *frames) Read(_ context.Context, dst []stream.Record[frame], most int) ([]stream.Record[frame], int64, error) {
	if f.at >= 1e5 {
		return dst, f.at, io.EOF
	}
	for range most {
		dst = append(dst, stream.Record[frame]{Value: frame{"door", make([]byte, f.each)}, Position: f.at, Time: async.NoTime})
		f.at++
	}
	f.given.Add(int64(most * f.each))
	return dst, f.at, nil
}

// TestAJobHoldsWhatItsBoundSays: records that are large structs, with and without an exchange, and
// a model that does not answer. Beside the operators' own bound there are the slices on the way:
// two in each port, and one at each end. Of records of unknown size one is asked for.
func TestAJobHoldsWhatItsBoundSays(t *testing.T) {
	const each, bound = 64 << 10, 1 << 20
	for _, keyed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var given atomic.Int64
			never := async.Func(func(ctx context.Context, _ frame) (int, error) { <-ctx.Done(); return 0, ctx.Err() }, 0)
			j := stream.New("j", stream.Config{Parallelism: 1})
			in := stream.From[frame](j, &frames{each, &given, 0})
			cfg, parallel := async.Config{MaxBytes: bound, Timeout: time.Hour}, 1
			if keyed {
				parallel = 2
				stream.Collect(stream.KeyedWait(in, func(f frame) string { return f.Camera }, never, cfg, stream.Parallel(parallel)))
			} else {
				stream.Collect(stream.OrderedWait(in, never, cfg))
			}
			ctx, cancel := context.WithCancel(t.Context())
			run := j.Start(ctx)
			synctest.Wait()
			if most := int64(parallel*bound + 8*(256<<10) + 4*each); given.Load() > most || given.Load() < bound {
				t.Errorf("keyed %v: %d KiB were read; want at most %d", keyed, given.Load()>>10, most>>10)
			}
			cancel()
			run.Wait()
		})
	}
}

// TestLargeResultsBeforeAnExchange: results of unknown size leave an operator one at a time, and
// then as many at once as fit into a slice.
func TestLargeResultsBeforeAnExchange(t *testing.T) {
	const each, bound = 64 << 10, 1 << 20
	synctest.Test(t, func(t *testing.T) {
		j := stream.New("j", stream.Config{})
		make64 := async.Func(func(context.Context, int) (frame, error) { return frame{"door", make([]byte, each)}, nil }, 0)
		never := async.Func(func(ctx context.Context, _ frame) (int, error) { <-ctx.Done(); return 0, ctx.Err() }, 0)
		large := stream.OrderedWait(stream.From(j, stream.FromSlice(make([]int, 1000))), make64, async.Config{MaxBytes: async.Off}, stream.Name("large"))
		stream.Collect(stream.KeyedWait(large, func(f frame) string { return f.Camera }, never, async.Config{MaxBytes: bound, Timeout: time.Hour}, stream.Parallel(2)))
		ctx, cancel := context.WithCancel(t.Context())
		run := j.Start(ctx)
		synctest.Wait()
		for _, o := range run.Progress().Operators {
			if most := int64(bound + 8*(256<<10) + 4*each); o.Name == "large" && (o.Out*each > most || o.Out*each < bound) {
				t.Errorf("%d KiB of results have left; want at most %d", o.Out*each>>10, most>>10)
			}
		}
		cancel()
		run.Wait()
	})
}
