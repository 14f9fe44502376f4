package asyncq

// list is an intrusive list of slots. It is singly linked, through entry.link. The list of
// deadlines is doubly linked, through dprev and dnext.
type list struct{ head, tail int32 }

var emptyList = list{none, none}

func (q *Queue) pushBack(l *list, s int32) {
	q.entries[s].link = none
	if l.tail == none {
		l.head = s
	} else {
		q.entries[l.tail].link = s
	}
	l.tail = s
}

func (q *Queue) popFront(l *list) int32 {
	s := l.head
	l.head = q.entries[s].link
	if l.head == none {
		l.tail = none
	}
	return s
}

// unlink takes s out of a singly linked list. It walks the list. It is used for entries that run
// out of time while they wait for a call. These are rare and near the head.
func (q *Queue) unlink(l *list, s int32) bool {
	prev := none
	for at := l.head; at != none; prev, at = at, q.entries[at].link {
		if at != s {
			continue
		}
		next := q.entries[at].link
		if prev == none {
			l.head = next
		} else {
			q.entries[prev].link = next
		}
		if next == none {
			l.tail = prev
		}
		return true
	}
	return false
}

// heap is a binary heap of slots, the oldest entry ahead. Each knows its position (entry.link).
type heap []int32

// up puts s at position i, or nearer to the head, where it belongs.
func (q *Queue) up(i int, s int32) {
	h := q.again
	for i > 0 && q.entries[s].seq < q.entries[h[(i-1)/2]].seq {
		q.put(i, h[(i-1)/2])
		i = (i - 1) / 2
	}
	q.put(i, s)
}

func (q *Queue) put(i int, s int32) { q.again[i], q.entries[s].link = s, int32(i) }

// takeOut takes s out of the heap.
func (q *Queue) takeOut(s int32) {
	i, last := int(q.entries[s].link), len(q.again)-1
	moved := q.again[last]
	q.again = q.again[:last]
	q.entries[s].link = none
	if i == last {
		return
	}
	for h := q.again; ; {
		c := 2*i + 1
		if c+1 < last && q.entries[h[c+1]].seq < q.entries[h[c]].seq {
			c++
		}
		if c >= last || q.entries[moved].seq < q.entries[h[c]].seq {
			break
		}
		q.put(i, h[c])
		i = c
	}
	q.up(i, moved)
}

func (q *Queue) deadlinePush(s int32) {
	e, l := &q.entries[s], &q.deadlines
	e.inList, e.dnext, e.dprev = true, none, l.tail
	if l.tail == none {
		l.head = s
	} else {
		q.entries[l.tail].dnext = s
	}
	l.tail = s
}

func (q *Queue) deadlineRemove(s int32) {
	e, l := &q.entries[s], &q.deadlines
	if e.dprev == none {
		l.head = e.dnext
	} else {
		q.entries[e.dprev].dnext = e.dnext
	}
	if e.dnext == none {
		l.tail = e.dprev
	} else {
		q.entries[e.dnext].dprev = e.dprev
	}
	e.inList = false
}

// ring is a FIFO of slots that grows to a power of two and stays there.
type ring struct {
	buf  []int32
	from uint64
	to   uint64
}

func (r *ring) len() int { return int(r.to - r.from) }

func (r *ring) push(s int32) {
	if r.len() == len(r.buf) {
		next := make([]int32, max(16, 2*len(r.buf)))
		for i := r.from; i != r.to; i++ {
			next[i&uint64(len(next)-1)] = r.buf[i&uint64(len(r.buf)-1)]
		}
		r.buf = next
	}
	r.buf[r.to&uint64(len(r.buf)-1)] = s
	r.to++
}

func (r *ring) front() int32 { return r.buf[r.from&uint64(len(r.buf)-1)] }

// segment is the records between two marks of an unordered queue, and the mark that ends them.
type segment struct {
	list    list // done, in order of completion
	pending int  // records not yet popped, done or not
	mark    int32
}

// segRing is a FIFO of segments, numbered from the first one ever. It is never empty.
type segRing struct {
	buf      []segment
	from, to uint64
}

func (r *segRing) push(s segment) {
	if int(r.to-r.from) == len(r.buf) {
		next := make([]segment, max(16, 2*len(r.buf)))
		for i := r.from; i != r.to; i++ {
			next[i&uint64(len(next)-1)] = r.buf[i&uint64(len(r.buf)-1)]
		}
		r.buf = next
	}
	r.buf[r.to&uint64(len(r.buf)-1)] = s
	r.to++
}

func (r *segRing) at(n uint64) *segment { return &r.buf[n&uint64(len(r.buf)-1)] }
func (r *segRing) head() *segment       { return r.at(r.from) }
func (r *segRing) last() *segment       { return r.at(r.to - 1) }
