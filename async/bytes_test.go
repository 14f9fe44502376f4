package async_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

type picture struct {
	Name   string
	Pixels []byte
}

type nested struct {
	Tiles []picture
	By    map[string]*picture
}

type node struct {
	Pixels []byte
	Next   *node
}

type sized struct {
	async.Function[picture, int]
}

func (sized) RecordBytes(p picture) int { return 2 * len(p.Pixels) }

const mib = 1 << 20

// never answers.
func never[IN any]() async.Function[IN, int] {
	return async.Func(func(ctx context.Context, _ IN) (int, error) { <-ctx.Done(); return 0, ctx.Err() }, 0)
}

// fill admits records of 1 MiB until there is no room, and returns how many there are.
func fill[IN any](t *testing.T, fn async.Function[IN, int], rec func([]byte) IN) (n int) {
	t.Helper()
	op, err := async.NewOperator(fn, async.Config{MaxBytes: 8*mib + 8<<10}, async.Subtask{}, func() {})
	if err != nil || op.Open(t.Context()) != nil {
		t.Fatal(err)
	}
	defer op.Close()
	for op.Room() > 0 {
		n += op.Admit([]async.Record[IN]{{Value: rec(make([]byte, mib))}})
	}
	return n
}

// TestBytesOfAnyType: a record counts with all that it refers to (A5).
func TestBytesOfAnyType(t *testing.T) {
	for name, n := range map[string]int{
		"bytes":     fill(t, never[[]byte](), func(b []byte) []byte { return b }),
		"string":    fill(t, never[string](), func(b []byte) string { return string(b) }),
		"struct":    fill(t, never[picture](), func(b []byte) picture { return picture{Pixels: b} }),
		"pointer":   fill(t, never[*picture](), func(b []byte) *picture { return &picture{Pixels: b} }),
		"nested":    fill(t, never[nested](), func(b []byte) nested { return nested{Tiles: []picture{{Pixels: b}}} }),
		"map":       fill(t, never[nested](), func(b []byte) nested { return nested{By: map[string]*picture{"a": {Pixels: b}}} }),
		"any":       fill(t, never[any](), func(b []byte) any { return map[string]any{"a": []any{string(b)}} }),
		"rows":      fill(t, never[[][]float32](), func(b []byte) [][]float32 { return [][]float32{make([]float32, len(b)/4)} }),
		"recursive": fill(t, never[node](), func(b []byte) node { return node{Pixels: b} }),
	} {
		if n != 8 {
			t.Errorf("%s: %d MiB were admitted; want 8", name, n)
		}
	}
	if n := fill[picture](t, sized{never[picture]()}, func(b []byte) picture { return picture{Pixels: b} }); n != 4 {
		t.Errorf("the function's own RecordBytes: %d records; want 4", n)
	}
}

// TestBytesThatAreNotCounted: a type that contains itself is named in the log, unless the function
// knows better.
func TestBytesThatAreNotCounted(t *testing.T) {
	var log bytes.Buffer
	sub := async.Subtask{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	if _, err := async.NewOperator(never[picture](), async.Config{}, sub, func() {}); err != nil || log.Len() > 0 {
		t.Error(err, log.String())
	}
	if _, err := async.NewOperator(never[node](), async.Config{}, sub, func() {}); err != nil || !strings.Contains(log.String(), "async_test.node") || !strings.Contains(log.String(), "async.Sizer") {
		t.Error(err, log.String())
	}
}

// TestBytesReadAhead: Map reads little ahead of what it may have in flight.
func TestBytesReadAhead(t *testing.T) {
	for _, each := range []int{1, 100, 64 << 10, 3 * mib} {
		synctest.Test(t, func(t *testing.T) {
			var read atomic.Int64
			in := func(yield func(picture, error) bool) {
				for {
					read.Add(int64(each))
					if !yield(picture{Pixels: make([]byte, each)}, nil) {
						return
					}
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				for range async.Map(ctx, in, never[picture](), async.Config{MaxBytes: mib, Timeout: time.Hour}) {
				}
			}()
			synctest.Wait()
			// Records in flight, records read ahead, and the one that waits to be read ahead.
			if most := int64(max(mib, each) + max(mib/8, each) + each); read.Load() > most {
				t.Errorf("records of %d bytes: %d KiB were read; want at most %d", each, read.Load()>>10, most>>10)
			}
			cancel()
			synctest.Wait()
		})
	}
}

// TestBytesOfResults: results that wait count, so that a model whose answers are large does not
// fill the memory behind a record that waits for its turn.
func TestBytesOfResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var made atomic.Int64
		release := make(chan struct{})
		fn := async.Func(func(ctx context.Context, v int) ([]byte, error) {
			if v == 0 {
				<-release
			}
			time.Sleep(time.Millisecond)
			made.Add(1)
			return make([]byte, mib), nil
		}, 4)
		in := func(yield func(int, error) bool) {
			for v := range 100 {
				if !yield(v, nil) {
					return
				}
			}
		}
		got := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			for v, err := range async.Map(t.Context(), in, fn, async.Config{MaxBytes: 8 * mib, Timeout: time.Hour}) {
				if err != nil || len(v) != mib {
					t.Error(err)
				}
				got++
			}
		}()
		time.Sleep(time.Minute)
		// 8 make the bound, and 3 more were under way beside the first.
		if n := made.Load(); n < 8 || n > 11 {
			t.Errorf("%d results of 1 MiB wait for the first one; want 8 to 11", n)
		}
		close(release)
		<-done
		if got != 100 {
			t.Errorf("%d results", got)
		}
	})
}

// TestLargeRecordsAreInFlightTogether: what is in flight does not count as read ahead.
func TestLargeRecordsAreInFlightTogether(t *testing.T) {
	for _, each := range []int{0, mib, 5 * mib} {
		synctest.Test(t, func(t *testing.T) {
			var calls atomic.Int64
			fn := async.Func(func(ctx context.Context, _ []byte) (int, error) {
				calls.Add(1)
				<-ctx.Done()
				return 0, ctx.Err()
			}, 0)
			in := func(yield func([]byte, error) bool) {
				for yield(make([]byte, each), nil) {
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				for range async.Map(ctx, in, fn, async.Config{Capacity: 64, Timeout: time.Hour}) {
				}
			}()
			synctest.Wait()
			want := int64(64)
			if each > 0 {
				want = min(want, async.DefaultMaxBytes/int64(each))
			}
			if calls.Load() != want {
				t.Errorf("%d records of %d bytes are in flight; want %d", calls.Load(), each, want)
			}
			cancel()
			synctest.Wait()
		})
	}
}
