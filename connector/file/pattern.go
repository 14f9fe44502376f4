package file

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"
)

// A pattern is a path whose elements may hold wildcards. Within an element they are those of
// filepath.Match. An element ** stands for any number of folders, also for none. Other wildcards
// that a shell understands are errors, because here they would match other names than the user
// means.

// element is one element of a pattern.
type element struct {
	text string // as filepath.Match takes it
	// tokens are the parts of the element. They are nil for **.
	tokens []token
	// literal: the element has no wildcard, and name is the only name that it matches.
	literal bool
	name    string
	// hidden: the element begins with a dot, and so do the names that it matches.
	hidden bool
}

// token is one character of a name, or any number of any characters (star).
type token struct {
	star bool
	// set are the possible characters, as ranges. A literal character is one range.
	set []runes
}

// runes are the characters from Lo to Hi.
type runes struct{ lo, hi rune }

var (
	anyRune = []runes{{0, utf8.MaxRune}}
	// braces matches alternatives, of which a shell makes several words.
	braces  = regexp.MustCompile(`\{[^{}]*(,|\.\.)[^{}]*\}`)
	escaped = regexp.MustCompile(`\\.`)
)

// deep reports whether the element is **.
func (e *element) deep() bool { return e.tokens == nil }

// escapes: a backslash makes the next character a literal one, as in filepath.Match.
const escapes = runtime.GOOS != "windows"

// hasMeta reports whether a path holds a wildcard, of this package or of a shell.
func hasMeta(path string) bool { return strings.ContainsAny(path, `*?[{`) }

// parsePattern cuts a pattern into elements. root is the folder where its search begins.
func parsePattern(pattern string) (root string, elems []element, err error) {
	bare := pattern
	if escapes {
		bare = escaped.ReplaceAllString(pattern, "x")
	}
	if b := braces.FindString(bare); b != "" {
		return "", nil, fmt.Errorf("alternatives in braces, as in %s, are not supported; list the paths one by one", b)
	}
	root = rootOf(pattern)
	for text := range strings.FieldsFuncSeq(pattern[len(root):], isSeparator) {
		if text == "." || text == "**" && len(elems) > 0 && elems[len(elems)-1].deep() {
			continue
		}
		e, err := parseElement(text)
		if err != nil {
			return "", nil, err
		}
		elems = append(elems, e)
	}
	if n := len(elems); n > 0 && elems[n-1].deep() {
		elems = append(elems, mustElement("*")) // all files at any depth
	}
	return root, elems, nil
}

func isSeparator(r rune) bool { return r < utf8.RuneSelf && os.IsPathSeparator(uint8(r)) }

// rootOf returns the root with which an absolute path begins. For a relative path it is empty.
func rootOf(path string) string {
	n := len(filepath.VolumeName(path))
	for n < len(path) && os.IsPathSeparator(path[n]) {
		n++
	}
	return path[:n]
}

// literalElements returns the elements of a path without wildcards.
func literalElements(path string) (elems []element) {
	for name := range strings.FieldsFuncSeq(path, isSeparator) {
		if name != "." {
			elems = append(elems, literalElement(name))
		}
	}
	return elems
}

func literalElement(name string) element {
	e := element{literal: true, name: name, hidden: strings.HasPrefix(name, "."), tokens: []token{}}
	for _, c := range name {
		e.tokens = append(e.tokens, token{set: []runes{{c, c}}})
	}
	return e
}

func mustElement(text string) element {
	e, err := parseElement(text)
	if err != nil {
		panic(err)
	}
	return e
}

// parseElement reads one element as filepath.Match does. It refuses an element that a shell would
// read in another way.
func parseElement(text string) (element, error) {
	e := element{text: text, literal: true}
	if text == "**" {
		return element{text: text}, nil
	}
	if _, err := filepath.Match(text, ""); err != nil {
		return e, err
	}
	var name strings.Builder
	for at := 0; at < len(text); {
		c, n := utf8.DecodeRuneInString(text[at:])
		switch {
		case c == '*':
			if at+1 < len(text) && text[at+1] == '*' {
				return e, fmt.Errorf("** stands for any depth of folders only where it is alone between two separators, not as in %s", text)
			}
			e.tokens, e.literal = append(e.tokens, token{star: true}), false
		case c == '?':
			e.tokens, e.literal = append(e.tokens, token{set: anyRune}), false
		case c == '[':
			var set []runes
			var err error
			if set, n, err = parseClass(text[at:]); err != nil {
				return e, err
			}
			e.tokens, e.literal = append(e.tokens, token{set: set}), false
		default:
			if c == '\\' && escapes {
				at += n
				c, n = utf8.DecodeRuneInString(text[at:])
			}
			e.hidden = e.hidden || c == '.' && len(e.tokens) == 0
			e.tokens = append(e.tokens, token{set: []runes{{c, c}}})
			name.WriteString(text[at : at+n])
		}
		at += n
	}
	e.name = name.String()
	return e, nil
}

// parseClass reads a class of characters such as [a-z]. filepath.Match has checked its form.
func parseClass(text string) (set []runes, n int, err error) {
	at := 1
	not := strings.HasPrefix(text[at:], "^")
	switch {
	case not:
		at++
	case strings.HasPrefix(text[at:], "!"):
		return nil, 0, errors.New("a class that begins with ! is not supported; write [^...] for all other characters, or put the ! later in the class")
	}
	one := func() rune {
		if text[at] == '\\' && escapes {
			at++
		}
		c, n := utf8.DecodeRuneInString(text[at:])
		at += n
		return c
	}
	for first := true; first || text[at] != ']'; first = false {
		if text[at] == '[' && strings.IndexByte(":.=", text[at+1]) >= 0 {
			return nil, 0, errors.New("classes by name are not supported; write [0-9] instead of [[:digit:]], and \\[ for the character [")
		}
		r := runes{lo: one()}
		if r.hi = r.lo; text[at] == '-' {
			at++
			r.hi = one()
		}
		set = append(set, r)
	}
	if not {
		set = except(set)
	}
	return set, at + 1, nil
}

// except returns all characters that are not in set.
func except(set []runes) (rest []runes) {
	slices.SortFunc(set, func(a, b runes) int { return int(a.lo - b.lo) })
	from := rune(0)
	for _, r := range set {
		if r.lo > from {
			rest = append(rest, runes{from, r.lo - 1})
		}
		from = max(from, r.hi+1)
	}
	return append(rest, runes{from, utf8.MaxRune})
}

// matches reports whether an element that is not ** matches a name. As in a shell, only an element
// that begins with a dot matches a name that begins with a dot.
func (e *element) matches(name string) bool {
	if strings.HasPrefix(name, ".") && !e.hidden {
		return false
	}
	ok, err := filepath.Match(e.text, name)
	return ok && err == nil
}

// meets reports whether there is a name that both elements match. names is the element for the
// files that a program makes.
func (e *element) meets(names *element) bool {
	if names.hidden && !e.hidden {
		return false
	}
	return meet(e.tokens, names.tokens)
}

// meet reports whether there is a text that both a and b match.
func meet(a, b []token) bool {
	return together(func(i, j int, rest func(i, j int) bool) bool {
		switch {
		case i < len(a) && a[i].star:
			return rest(i+1, j) || j < len(b) && rest(i, j+1)
		case j < len(b) && b[j].star:
			return rest(i, j+1) || i < len(a) && rest(i+1, j)
		case i == len(a) || j == len(b):
			return i == len(a) && j == len(b)
		}
		return overlap(a[i].set, b[j].set) && rest(i+1, j+1)
	})
}

func overlap(a, b []runes) bool {
	return slices.ContainsFunc(a, func(r runes) bool {
		return slices.ContainsFunc(b, func(s runes) bool { return r.lo <= s.hi && s.lo <= r.hi })
	})
}

// pathsMeet reports whether there is a path that both a pattern and names match. Both begin at the
// same folder. names has no **.
func pathsMeet(pattern, names []element) bool {
	return together(func(i, j int, rest func(i, j int) bool) bool {
		switch {
		case i == len(pattern):
			return j == len(names)
		case pattern[i].deep():
			return rest(i+1, j) || j < len(names) && !names[j].hidden && rest(i, j+1)
		}
		return j < len(names) && pattern[i].meets(&names[j]) && rest(i+1, j+1)
	})
}

// together compares two sequences from their beginnings. from reports whether they agree from part
// i of the first and part j of the second on. It is called at most once for each i and j.
func together(from func(i, j int, rest func(i, j int) bool) bool) bool {
	known := map[[2]int]bool{}
	var rest func(i, j int) bool
	rest = func(i, j int) bool {
		at := [2]int{i, j}
		agree, ok := known[at]
		if !ok {
			agree = from(i, j, rest)
			known[at] = agree
		}
		return agree
	}
	return rest(0, 0)
}
