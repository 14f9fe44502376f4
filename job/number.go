package job

import (
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// whole reads a whole number in decimal, as a person would: leading zeros mean nothing. (YAML's
// parser reads 010 as octal 8, and 08 as a text.) 0x1f and 0b11 are accepted, because their prefix
// says the base; 0o10 is refused.
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

// plain returns the text of a number, without underscores. That is a number to the parser, or
// digits without quotes that the parser reads as a text.
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
