package file

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

const (
	partPrefix    = "part-"
	partSuffix    = ".jsonl"
	pendingPrefix = ".pending-"
)

// ordinal writes a number so that names sort as numbers do. It has five digits. Above 99999 a
// letter before the digits says how many more there are, since letters sort after digits ("99999",
// "a100000", "b1000000").
func ordinal(n int64) string {
	digits := fmt.Sprintf("%05d", n)
	if len(digits) == 5 {
		return digits
	}
	return string(rune('a'+len(digits)-6)) + digits
}

func parseOrdinal(s string) (int64, bool) {
	digits := s
	if s != "" && s[0] >= 'a' {
		digits = s[1:]
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, err == nil && n >= 0 && ordinal(n) == s
}

// partName returns the final name of part n of a split. Names sort by split, then by n.
func partName(split int, n int64) string {
	return partPrefix + ordinal(int64(split)) + "-" + ordinal(n) + partSuffix
}

func parsePart(name string) (split int, n int64, ok bool) {
	rest, ok := strings.CutPrefix(name, partPrefix)
	if !ok {
		return 0, 0, false
	}
	if rest, ok = strings.CutSuffix(rest, partSuffix); !ok {
		return 0, 0, false
	}
	first, second, _ := strings.Cut(rest, "-")
	s, ok1 := parseOrdinal(first)
	n, ok2 := parseOrdinal(second)
	return int(s), n, ok1 && ok2 && int64(int(s)) == s
}

// digest turns a name of any characters and length into a part of a file name.
func digest(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:4])
}

// pendingOf returns the beginning of the pending names of a job.
func pendingOf(job string) string { return pendingPrefix + digest(job) + "-" }
