package server

import "time"

// group is the waiting requests that may share batches. It has a line for each caller that waits in
// it, and is removed with its last request.
type group struct {
	key         string
	lines       map[uint64]*line
	first, last *line // in the order of their turns
	rows        int   // not yet taken
}

// line is the requests that one caller has in a group, in order. A request that is no longer wanted
// leaves its line at once, because its tensors would stay in memory.
type line struct {
	caller      uint64
	group       *group
	next, prev  *line
	first, last *request
}

// append puts a line behind all others in the order of turns.
func (g *group) append(l *line) {
	if l.prev = g.last; l.prev != nil {
		l.prev.next = l
	} else {
		g.first = l
	}
	g.last = l
}

// cut removes a line from the order of turns.
func (g *group) cut(l *line) {
	if l.prev != nil {
		l.prev.next = l.next
	} else {
		g.first = l.next
	}
	if l.next != nil {
		l.next.prev = l.prev
	} else {
		g.last = l.prev
	}
	l.next, l.prev = nil, nil
}

// leave removes a request from its line. An empty line is removed from its group.
func (r *request) leave() {
	l := r.line
	if r.before != nil {
		r.before.behind = r.behind
	} else {
		l.first = r.behind
	}
	if r.behind != nil {
		r.behind.before = r.before
	} else {
		l.last = r.before
	}
	r.line, r.before, r.behind = nil, nil, nil
	if l.first == nil {
		l.group.cut(l)
		delete(l.group.lines, l.caller)
	}
}

// oldest returns when the oldest request of the group arrived.
func (g *group) oldest() time.Time {
	var at time.Time
	for l := g.first; l != nil; l = l.next {
		if at.IsZero() || l.first.arrived.Before(at) {
			at = l.first.arrived
		}
	}
	return at
}
