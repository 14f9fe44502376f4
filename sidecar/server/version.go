package server

import (
	"cmp"
	"strings"
)

// compareVersions orders versions by preference: first, as the least, those that are not numbers,
// by their text, and then the numbers, by their value. A request that names no version takes the
// greatest.
func compareVersions(a, b string) int {
	na, nb := isNumber(a), isNumber(b)
	switch {
	case na && !nb:
		return 1
	case nb && !na:
		return -1
	case na && nb:
		x, y := strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y), cmp.Compare(a, b))
	}
	return cmp.Compare(a, b)
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
