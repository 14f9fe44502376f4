package async

import (
	"iter"
	"math"
	"sync"

	"github.com/tensorferry/tensorferry/internal/guard"
)

// feed reads a sequence on a goroutine of its own and passes the values on in bounded slices. So
// Map can wait for answers and for input at the same time.
type feed[IN any] struct {
	wake  func()
	bound int
	most  int64 // bytes
	size  func(*IN) int64
	gone  chan struct{} // closed when the reader has returned

	mu      sync.Mutex
	space   sync.Cond
	buf     []Record[IN]
	spare   []Record[IN]
	sizes   []int64 // of buf
	bytes   int64   // of what was read and is not admitted yet, spare's included
	out     int64   // of these, spare's
	next    int64
	ended   bool
	stopped bool
	err     error // of the input; set before ended
}

func newFeed[IN any](cfg Config, size func(*IN) int64, wake func()) *feed[IN] {
	f := &feed[IN]{wake: wake, bound: min(cfg.Capacity, 256), most: math.MaxInt64, size: size, gone: make(chan struct{})}
	if cfg.MaxBytes > 0 {
		f.most = cfg.MaxBytes / 8
	}
	f.space.L = &f.mu
	return f
}

// read runs the sequence until it ends, fails or stop is called.
func (f *feed[IN]) read(in iter.Seq2[IN, error]) {
	defer close(f.gone)
	err := ErrGoexit
	defer func() {
		if err == ErrGoexit {
			err = guard.Exited("the input of Map")
		}
		f.mu.Lock()
		f.err, f.ended = err, true
		f.mu.Unlock()
		f.wake()
	}()
	err = f.drain(in)
}

func (f *feed[IN]) drain(in iter.Seq2[IN, error]) (err error) {
	defer recovered("the input of Map", &err)
	for v, err := range in {
		if err != nil {
			return err
		}
		if !f.put(v) {
			return nil
		}
	}
	return nil
}

func (f *feed[IN]) put(v IN) bool {
	bytes := f.size(&v)
	f.mu.Lock()
	for !f.stopped && (len(f.buf) >= f.bound || f.bytes > 0 && f.bytes+bytes > f.most) {
		f.space.Wait()
	}
	if f.stopped {
		f.mu.Unlock()
		return false
	}
	f.buf = append(f.buf, Record[IN]{Value: v, Time: NoTime, Position: f.next})
	f.next++
	f.sizes = append(f.sizes, bytes)
	f.bytes += bytes
	first := len(f.buf) == 1
	f.mu.Unlock()
	if first {
		f.wake()
	}
	return true
}

// admitted is called when the operator has admitted all values that were taken last. Their bytes
// are the operator's from then on.
func (f *feed[IN]) admitted() {
	f.mu.Lock()
	f.bytes, f.out = f.bytes-f.out, 0
	f.space.Signal()
	f.mu.Unlock()
}

// take returns up to n values, which are valid until the next take, and whether any value may
// follow.
func (f *feed[IN]) take(n int) ([]Record[IN], bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.spare)
	n = min(n, len(f.buf))
	f.spare = append(f.spare[:0], f.buf[:n]...)
	for _, bytes := range f.sizes[:n] {
		f.out += bytes // values of earlier takes are admitted already
	}
	f.sizes = f.sizes[:copy(f.sizes, f.sizes[n:])]
	rest := copy(f.buf, f.buf[n:])
	clear(f.buf[rest:])
	f.buf = f.buf[:rest]
	f.space.Signal()
	return f.spare, !f.ended || len(f.buf) > 0
}

// ready reports whether there is a value to take.
func (f *feed[IN]) ready() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.buf) > 0
}

// stop ends the reading and waits for it.
func (f *feed[IN]) stop() {
	f.mu.Lock()
	f.stopped = true
	f.space.Broadcast()
	f.mu.Unlock()
	<-f.gone
}
