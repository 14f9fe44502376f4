package sidecar

import "time"

// sizes learns how many bytes of tensors a request may have (A75). Servers, proxies and this side
// bound a message, and say so in words of their own, or in none: then it looks as if there were no
// room. Like gather it is a pure state machine, under the channel's lock.
//
// A request that is too large is tried in halves, and what passes is the size from then on. It is
// given up again step by step, since it may have been the answer of one record that was too large.
type sizes struct {
	most int // of the configuration
	now  int // at present

	good  int // bytes of the largest request that has passed, as far as is believed
	least int // bytes of the smallest that was refused and is larger; 0: none

	grows  time.Time     // when the present size is doubled
	step   time.Duration // until it is doubled again
	raised bool          // it was doubled, and nothing refused since

	// Refusals in unknown words: how many in a row, the bytes of the newest, whether a smaller one
	// has passed since, and how many make it worthwhile to try halves.
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

// refused says that a request of several rows was too large for somebody.
func (s *sizes) refused(bytes int) {
	if bytes <= s.good {
		// Such a one has passed. It may be another server, or the answer.
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

// passed says that a request has reached the model; part that it was made of one that was refused.
// It reports whether the size has become smaller by it.
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

// doubt says that a request of several rows was refused, in words that may mean its size; others
// that there are more in flight. It reports whether halves are worth a try: such a request was
// refused repeatedly, while smaller ones passed, or while nothing else was in flight.
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

// inVain says that not even a single row has passed: it is not the size.
func (s *sizes) inVain() {
	s.enough, s.least = min(2*s.enough, mostDoubts), 0
}
