package tensor

// A buffer is far too large if for so many uses none has needed more than a part of it. One of few
// elements is kept in any case.
const (
	usesWatched = 64
	partNeeded  = 4
	alwaysKept  = 16 << 10
)

// usage watches how much of a buffer is used, so that one that was large once is not kept for ever.
type usage struct{ most, uses int }

// note takes how much is used now.
func (u *usage) note(n int) { u.most = max(u.most, n) }

// tooLarge ends a use, and reports whether the buffer of that capacity is far too large.
func (u *usage) tooLarge(capacity int) bool {
	if u.uses++; u.uses < usesWatched {
		return false
	}
	large := capacity > alwaysKept && capacity/partNeeded > u.most
	*u = usage{}
	return large
}
