package job

import (
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// whole reads a whole number as its reader would: in decimal, whatever zeros stand in front. YAML's
// parser takes 010 for the octal of 8, and 08 for a text. 0x1f and 0b11 say themselves what they
// are; 0o10 is refused.
func whole(n ast.Node) (int64, bool) {
	digits, ok := plain(n)
	if !ok || isOctal(digits) {
		return 0, false
	}
	if v, err := strconv.ParseInt(digits, 10, 64); err == nil {
		return v, true
	}
	i, ok := n.(*ast.IntegerNode)
	if !ok {
		return 0, false
	}
	switch x := i.Value.(type) {
	case int64:
		return x, true
	case uint64:
		return int64(x), x <= math.MaxInt64
	}
	return 0, false
}

// plain is what the file has in a number's place, without underscores: what the parser takes for a
// number, or digits that it takes for a text although no quotes are around them.
func plain(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.IntegerNode:
		return strings.ReplaceAll(strings.TrimSpace(n.GetToken().Value), "_", ""), true
	case *ast.StringNode:
		t := n.GetToken()
		ok := t != nil && t.Type == token.StringType && digitsOnly.MatchString(n.Value)
		return strings.ReplaceAll(n.Value, "_", ""), ok
	}
	return "", false
}

var digitsOnly = regexp.MustCompile(`^[-+]?[0-9][0-9_]*$`)

// isOctal reports whether a number is written as YAML 1.2 writes octals.
func isOctal(digits string) bool { return strings.HasPrefix(strings.TrimLeft(digits, "+-"), "0o") }
