package tensor

// A buffer is far too large if none of the last usesWatched uses needed more than 1/partNeeded of
// it. A buffer of at most alwaysKept elements is always kept.
const (
	usesWatched = 64
	partNeeded  = 4
	alwaysKept  = 16 << 10
)

// usage watches how much of a buffer is used, so that a buffer that was large once can shrink.
type usage struct{ most, uses int }

// note records how much is used now.
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
