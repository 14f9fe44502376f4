package asyncq

// callLimit is how many calls may be in progress. It follows additive increase and multiplicative
// decrease (A40), as TCP's congestion avoidance does (Chiu and Jain, 1989). It begins at its bound
// and halves when the other side reports overload. It grows by a step each time as many calls have
// succeeded as it allows.
type callLimit struct {
	bound, present int
	step           int
	earned         int    // successes towards the next step
	calls          uint64 // made so far
	fallen         uint64 // calls made when it last fell
}

func (l *callLimit) reset(bound int) {
	l.bound, l.present = bound, bound
	// From 1 back to the bound in at most 64 rounds.
	l.step = max(1, bound/64)
}

func (l *callLimit) now() int { return l.present }

// started numbers a call.
func (l *callLimit) started() uint64 {
	l.calls++
	return l.calls
}

// overloaded lowers the limit after the refusal of a call. Calls that were in progress when the
// limit last fell do not lower it again, so a burst of refusals halves it once.
func (l *callLimit) overloaded(call uint64) {
	if call <= l.fallen {
		return
	}
	l.present, l.earned, l.fallen = max(1, l.present/2), 0, l.calls
}

func (l *callLimit) succeeded() {
	if l.present == l.bound {
		return
	}
	if l.earned++; l.earned >= l.present {
		l.present, l.earned = min(l.bound, l.present+l.step), 0
	}
}
