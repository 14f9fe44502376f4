package stream

import "sync"

// Sizes of what travels between goroutines.
const (
	// sliceSize is the number of records in a full slice, and sliceBytes the number of bytes. A
	// slice that reaches either is full. One larger record is a slice of its own.
	sliceSize  = 256
	sliceBytes = 256 << 10
	// portSize is the number of elements that wait in a port.
	portSize = 2
)

// port is a bounded queue between two goroutines. Neither of them blocks: a goroutine that finds
// the port full or empty is woken when that has changed.
type port[E any] struct {
	mu       sync.Mutex
	ring     [portSize]E
	first, n int
	// put wakes the receiver, and taken the sender. They are set before use and must not block.
	put, taken func()
}

// offer puts e in, unless the port is full.
func (p *port[E]) offer(e E) bool {
	p.mu.Lock()
	if p.n == portSize {
		p.mu.Unlock()
		return false
	}
	p.ring[(p.first+p.n)%portSize] = e
	p.n++
	p.mu.Unlock()
	p.put()
	return true
}

// take removes the oldest element. The sender is woken when that makes room in a full port, or
// leaves the receiver without work.
func (p *port[E]) take() (e E, ok bool) {
	p.mu.Lock()
	if p.n == 0 {
		p.mu.Unlock()
		return e, false
	}
	wake := p.n == portSize || p.n == 1
	var zero E
	e, p.ring[p.first] = p.ring[p.first], zero
	p.first = (p.first + 1) % portSize
	p.n--
	p.mu.Unlock()
	if wake {
		p.taken()
	}
	return e, true
}

// len returns the number of elements that wait.
func (p *port[E]) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

// recycler returns used slices to the code that fills them.
type recycler[T any] struct {
	mu    sync.Mutex
	free  [][]Record[T]
	texts [][]byte
}

// get returns an empty slice with room.
func (r *recycler[T]) get() []Record[T] {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := len(r.free); k > 0 {
		s := r.free[k-1]
		r.free = r.free[:k-1]
		return s
	}
	return make([]Record[T], 0, sliceSize)
}

// give takes a slice whose records have gone on.
func (r *recycler[T]) give(s []Record[T]) {
	if cap(s) == 0 {
		return
	}
	clear(s)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.free) < portSize+2 {
		r.free = append(r.free, s[:0])
	}
}

// text returns an empty text. It reuses one if it can.
func (r *recycler[T]) text() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := len(r.texts)
	if k == 0 {
		return []byte{}
	}
	b := r.texts[k-1]
	r.texts = r.texts[:k-1]
	return b
}

// giveText takes a text that is no longer used.
func (r *recycler[T]) giveText(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.texts) < portSize+2 {
		r.texts = append(r.texts, b[:0])
	}
}
