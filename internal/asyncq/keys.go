package asyncq

// keyTable finds the newest entry of a key in the newest segment. It is a hash table of slots with
// chains through entry.bnext. It holds at most one entry of each key: the newest, as long as a
// later entry of its key would have to wait for it. So it is never larger than the queue.
type keyTable struct {
	heads []int32
	n     int
}

func (q *Queue) bucket(key uint64) *int32 {
	// Keys come hashed, but perhaps badly. The multiplication spreads their low bits.
	return &q.keys.heads[(key*0x9e3779b97f4a7c15)>>32&uint64(len(q.keys.heads)-1)]
}

// enqueueKey puts a new entry behind the last one of its key.
func (q *Queue) enqueueKey(s int32) {
	if q.keys.n >= len(q.keys.heads) {
		q.growKeys()
	}
	e := &q.entries[s]
	head := q.bucket(e.key)
	for at := head; *at != none; at = &q.entries[*at].bnext {
		p := *at
		if o := &q.entries[p]; o.key == e.key {
			// The new entry takes the old one's place in the table. An entry of an earlier segment
			// is not a predecessor: the mark between the two keeps their order.
			e.bnext, *at = o.bnext, s
			o.bnext = none
			if o.seg == e.seg {
				o.knext, e.behind = s, true
			}
			return
		}
	}
	e.bnext, *head = *head, s
	q.keys.n++
}

// releaseKey lets a done entry leave that is not behind another of its key. After it, the entries
// of its key leave that waited only for it.
func (q *Queue) releaseKey(s int32) {
	for {
		q.pushBack(&q.segs.at(q.entries[s].seg).list, s)
		next := q.entries[s].knext
		if next == none {
			q.dropKey(s)
			return
		}
		q.entries[next].behind = false
		if q.entries[next].state != done {
			return
		}
		s = next
	}
}

// dropKey takes an entry out of the table, if it is still the newest of its key.
func (q *Queue) dropKey(s int32) {
	for at := q.bucket(q.entries[s].key); *at != none; at = &q.entries[*at].bnext {
		if *at == s {
			*at = q.entries[s].bnext
			q.entries[s].bnext = none
			q.keys.n--
			return
		}
	}
}

func (q *Queue) growKeys() {
	old := q.keys.heads
	q.keys.heads = make([]int32, max(64, 2*len(old)))
	for i := range q.keys.heads {
		q.keys.heads[i] = none
	}
	for _, s := range old {
		for s != none {
			next := q.entries[s].bnext
			head := q.bucket(q.entries[s].key)
			q.entries[s].bnext, *head = *head, s
			s = next
		}
	}
}
