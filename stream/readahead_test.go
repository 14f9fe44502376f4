package stream_test

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
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

func (f *frames) Splits(context.Context) ([]stream.Split, error) {
	return []stream.Split{{Data: []byte("camera")}}, nil
}
func (f *frames) Verify(context.Context, []stream.Split, []int64) error { return nil }
func (f *frames) Open(_ context.Context, _ stream.Split, at int64) (stream.Reader[frame], error) {
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
// two in each port, one at each end, and the first Read, which asks for a slice of records of
// unknown size.
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
			const first = 256 * each
			if most := int64(first + parallel*bound + 8*(256<<10) + 4*each); given.Load() > most || given.Load() < first {
				t.Errorf("keyed %v: %d KiB were read; want at most %d", keyed, given.Load()>>10, most>>10)
			}
			cancel()
			run.Wait()
		})
	}
}
