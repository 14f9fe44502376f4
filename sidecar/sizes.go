package sidecar

import "time"

// sizes learns how many bytes of tensors a request may have (A75). Servers, proxies and this side
// bound a message. When they refuse one, some say so, each in its own words. Others do not, and it
// looks like overload. Like gather, sizes is a pure state machine under the channel's lock.
//
// A request that is too large is tried in halves, and the size that passes becomes the limit. The
// limit is raised again step by step, since the refusal may have been about the answer to one large
// record.
type sizes struct {
	most int // the configured limit
	now  int // the present limit

	good  int // believed size of the largest request that has passed
	least int // size of the smallest larger request that was refused; 0: none

	grows  time.Time     // when now is doubled
	step   time.Duration // how long until it is doubled again
	raised bool          // nothing was refused since it was doubled

	// Refusals with unknown messages: how many in a row, the size of the newest, whether a
	// smaller request has passed since, and how many are enough to try halves.
	doubts, doubtful int
	smaller          bool
	enough           int
}

const (
	firstStep    = 10 * time.Second
	longestStep  = 10 * time.Minute
	fewestDoubts = 2
	mostDoubts   = 64
)

func newSizes(most int) sizes {
	return sizes{most: most, now: most, step: firstStep, enough: fewestDoubts}
}

// refused notes that a request of several rows was too large.
func (s *sizes) refused(bytes int) {
	if bytes <= s.good {
		// Such a request has passed before. Another server, or the answer, may be the
		// cause.
		s.good = bytes / 2
		return
	}
	if s.least == 0 || bytes < s.least {
		s.least = bytes
	}
	if s.raised {
		s.raised, s.step = false, min(2*s.step, longestStep)
	}
}

// passed notes that a request has reached the model. part says that it was made from a refused
// request. It reports whether this has lowered the limit.
func (s *sizes) passed(bytes int, part bool, now time.Time) (lower bool) {
	s.good = max(s.good, bytes)
	if s.doubts > 0 {
		if bytes >= s.doubtful {
			s.doubts, s.enough = 0, fewestDoubts
		} else {
			s.smaller = true
		}
	}
	switch {
	case s.least > 0 && bytes >= s.least:
		s.least = 0
	case s.least > 0 && part:
		lower = s.good < s.now
		s.now, s.least = max(min(s.good, s.now), 1), 0
		s.grows = now.Add(s.step)
	case s.now < s.most && bytes >= s.now/2 && !now.Before(s.grows):
		s.now = min(2*s.now, s.most)
		s.raised, s.grows = true, now.Add(s.step)
		if s.now == s.most {
			s.step = firstStep
		}
	}
	return lower
}

// doubt notes that a request of several rows was refused, with a message that may be about its
// size. others says that more requests are in flight. It reports whether halves are worth a try:
// such a request was refused repeatedly, while smaller ones passed or nothing else was in flight.
func (s *sizes) doubt(bytes int, others bool) bool {
	if s.doubts == 0 || !others || s.smaller {
		s.doubts++
	}
	s.doubtful, s.smaller = bytes, false
	if s.doubts < s.enough {
		return false
	}
	s.doubts = 0
	return true
}

// inVain notes that not even a single row has passed: the size is not the cause.
func (s *sizes) inVain() {
	s.enough, s.least = min(2*s.enough, mostDoubts), 0
}
