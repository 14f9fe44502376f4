package sidecar

// fifo is a queue that keeps its memory and forgets what left it.
type fifo[T any] struct {
	buf  []T
	head int
}

func (q *fifo[T]) len() int { return len(q.buf) - q.head }

// items returns what is queued, oldest first. It is valid until the next change.
func (q *fifo[T]) items() []T { return q.buf[q.head:] }

// push appends. Space left in front is used before the buffer grows.
func (q *fifo[T]) push(vs ...T) {
	if q.head > 0 && len(q.buf)+len(vs) > cap(q.buf) {
		n := copy(q.buf, q.buf[q.head:])
		clear(q.buf[n:])
		q.buf, q.head = q.buf[:n], 0
	}
	q.buf = append(q.buf, vs...)
}

// pushFront puts vs before everything else, in their order.
func (q *fifo[T]) pushFront(vs ...T) {
	if q.head < len(vs) {
		more := len(vs) - q.head
		q.buf = append(q.buf, vs[:more]...) // the values do not matter: this makes room
		copy(q.buf[len(vs):], q.buf[q.head:len(q.buf)-more])
		q.head = len(vs)
	}
	q.head -= len(vs)
	copy(q.buf[q.head:], vs)
}

// drop removes the n oldest values.
func (q *fifo[T]) drop(n int) {
	clear(q.buf[q.head : q.head+n])
	if q.head += n; q.head == len(q.buf) {
		q.buf, q.head = q.buf[:0], 0
	}
}

// filter keeps the values for which keep returns true, in order.
func (q *fifo[T]) filter(keep func(*T) bool) {
	n := q.head
	for i := q.head; i < len(q.buf); i++ {
		if keep(&q.buf[i]) {
			q.buf[n] = q.buf[i]
			n++
		}
	}
	clear(q.buf[n:])
	q.buf = q.buf[:n]
	if q.head == n {
		q.buf, q.head = q.buf[:0], 0
	}
}
