package job

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-yaml/ast"
)

// decoder turns the YAML tree into a Spec and gathers faults on the way. A value that is absent or
// wrong reads as zero. The decoder has then recorded the fault of a wrong one.
type decoder struct {
	file, dir string
	faults    Faults
	warnings  Faults
	at        map[string]Position
}

// renamed has the new name of each renamed key, by the key's old path.
var renamed = map[string]string{"sidecar.window": "max_batch_delay"}

// value is a node and its place in the file.
type value struct {
	path string
	key  string   // the path's last element as the file has it
	at   Position // of the key, or of the element of a list
	node ast.Node
}

func (d *decoder) fault(at Position, format string, args ...any) {
	d.faults = append(d.faults, Fault{File: d.file, Position: at, Message: fmt.Sprintf(format, args...)})
}

// wrong reports a value that is not what its key wants.
func (d *decoder) wrong(v value, want string) {
	d.fault(position(v.node), "%s: want %s, found %s", v.path, want, describe(v.node))
}

// place finds the position of a path or of its nearest parent in the file.
func place(at map[string]Position, path string) Position {
	for path != "" {
		if p, ok := at[path]; ok {
			return p
		}
		path = path[:max(strings.LastIndexByte(path, '.'), 0)]
	}
	return Position{1, 1}
}

// section is a mapping with known keys.
type section struct {
	d      *decoder
	v      value
	values map[string]value
	broken bool // not a mapping, which has been reported
}

// section reads a mapping and reports the keys that are not among known. An
// empty value is an empty mapping.
func (d *decoder) section(v value, known ...string) *section {
	s := &section{d: d, v: v}
	s.values, s.broken = d.mapping(v, func(k string, at Position) bool {
		if slices.Contains(known, k) {
			return true
		}
		hint := "known here: " + strings.Join(known, ", ")
		if near := nearest(k, known); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		d.fault(at, "%s: unknown key; %s", join(v.path, k), hint)
		return false
	})
	return s
}

// mapping reads the keys of a mapping that allowed accepts.
func (d *decoder) mapping(v value, allowed func(key string, at Position) bool) (values map[string]value, broken bool) {
	var entries []*ast.MappingValueNode
	switch n := v.node.(type) {
	case *ast.MappingNode:
		entries = n.Values
	case *ast.MappingValueNode:
		entries = []*ast.MappingValueNode{n}
	case *ast.NullNode:
	default:
		d.fault(position(v.node), "%s: want a mapping (key: value), found %s", cmp.Or(v.path, "the file"), describe(v.node))
		return nil, true
	}
	values = map[string]value{}
	for _, e := range entries {
		at := position(e.Key)
		key, ok := keyText(e.Key)
		if !ok {
			d.fault(at, "%s: want a plain key, found %s", cmp.Or(v.path, "the file"), describe(e.Key))
			continue
		}
		if now := renamed[join(v.path, key)]; now != "" {
			d.warnings = append(d.warnings, Fault{d.file, at, fmt.Sprintf(
				"%s is named %s now; the old name still works", join(v.path, key), join(v.path, now))})
			key = now
		}
		if first, ok := values[key]; ok {
			d.fault(at, "%s: given twice, first on line %d", join(v.path, key), first.at.Line)
			continue
		}
		if !allowed(key, at) {
			continue
		}
		child := value{path: join(v.path, key), key: key, at: at, node: e.Value}
		values[key] = child
		d.at[child.path] = at
	}
	return values, false
}

func keyText(k ast.MapKeyNode) (string, bool) {
	switch k := k.(type) {
	case *ast.StringNode:
		return k.Value, true
	case *ast.IntegerNode, *ast.BoolNode, *ast.FloatNode:
		return k.GetToken().Value, true
	}
	return "", false
}

// join makes a path for messages: it stays on one line, whatever the key holds.
func join(path, key string) string {
	if key = short(key); strings.ContainsFunc(key, unicode.IsControl) {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func (s *section) has(key string) bool { _, ok := s.values[key]; return ok }

// missing reports a key that must be there.
func (s *section) missing(key, want string) {
	if s.broken || s.has(key) {
		return
	}
	s.d.fault(s.v.at, "%s: missing; want %s", join(s.v.path, key), want)
}

// text reads a string that is not empty.
func (s *section) text(key, want string) string {
	v, ok := s.values[key]
	if !ok {
		return ""
	}
	return s.d.text(v, want)
}

func (d *decoder) text(v value, want string) string {
	switch n := v.node.(type) {
	case *ast.StringNode:
		if n.Value != "" {
			return n.Value
		}
	case *ast.LiteralNode:
		if t := strings.TrimSuffix(n.Value.Value, "\n"); t != "" {
			return t
		}
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		want += " (in quotes, if it looks like a number or a truth value)"
	}
	d.wrong(v, want)
	return ""
}

// choice reads one of a few words.
func (s *section) choice(key string, words ...string) string {
	v, ok := s.values[key]
	if !ok {
		return ""
	}
	if n, ok := v.node.(*ast.StringNode); ok && slices.Contains(words, n.Value) {
		return n.Value
	}
	s.d.wrong(v, oneOf(words))
	return ""
}

func oneOf(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// flag reads true or false.
func (s *section) flag(key string, absent bool) bool {
	v, ok := s.values[key]
	if !ok {
		return absent
	}
	n, ok := v.node.(*ast.BoolNode)
	if !ok {
		s.d.wrong(v, "true or false")
		return absent
	}
	return n.Value
}

// count reads a whole number within bounds.
func (s *section) count(key string, least, most int) int {
	v, ok := s.values[key]
	if !ok {
		return 0
	}
	if n, ok := whole(v.node); ok && n >= int64(least) && n <= int64(most) {
		return int(n)
	}
	s.d.wrong(v, fmt.Sprintf("a whole number from %d to %d", least, most))
	return 0
}

// ratio reads a number within bounds.
func (s *section) ratio(key string, least, most float64) float64 {
	v, ok := s.values[key]
	if !ok {
		return 0
	}
	f, ok := math.NaN(), false
	if n, isWhole := whole(v.node); isWhole {
		f, ok = float64(n), true
	} else if n, isFloat := v.node.(*ast.FloatNode); isFloat {
		f, ok = n.Value, true
	}
	if ok && f >= least && f <= most {
		return f
	}
	s.d.wrong(v, fmt.Sprintf("a number from %v to %v", least, most))
	return 0
}

// share reads a number from 0 to 1; nil if it is absent.
func (s *section) share(key string) *float64 {
	if !s.has(key) {
		return nil
	}
	f := s.ratio(key, 0, 1)
	return &f
}

// maxDuration keeps sums of a few durations far from overflow.
const maxDuration = 100 * 365 * 24 * time.Hour

// duration reads a duration above 0. If zero is not empty, 0 is valid too, and zero is its meaning.
func (s *section) duration(key, zero string) time.Duration {
	v, ok := s.values[key]
	if !ok {
		return 0
	}
	if n, ok := whole(v.node); ok && n == 0 && zero != "" {
		return 0
	}
	if n, ok := v.node.(*ast.StringNode); ok {
		if t, err := time.ParseDuration(n.Value); err == nil && t <= maxDuration && (t > 0 || t == 0 && zero != "") {
			return t
		}
	}
	want := "a duration above 0 with its unit, such as 500ms, 10s or 2m"
	if zero != "" {
		want = "a duration with its unit, such as 500ms, 10s or 2m, or 0 for " + zero
	}
	s.d.wrong(v, want)
	return 0
}

// isZero reports whether a number or duration is given, is valid and is 0.
func (s *section) isZero(key string) bool {
	v, ok := s.values[key]
	if !ok {
		return false
	}
	if t, isText := v.node.(*ast.StringNode); isText {
		d, err := time.ParseDuration(t.Value)
		return err == nil && d == 0
	}
	n, ok := whole(v.node)
	return ok && n == 0
}

var sizes = map[string]int64{
	"": 1, "B": 1,
	"KB": 1e3, "MB": 1e6, "GB": 1e9,
	"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
}

var sizeText = regexp.MustCompile(`^([0-9]{1,18}) ?([A-Za-z]*)$`)

// size reads a number of bytes within bounds.
func (s *section) size(key string, least, most int64) int64 {
	v, ok := s.values[key]
	if !ok {
		return 0
	}
	n, ok := whole(v.node)
	if t, isText := v.node.(*ast.StringNode); isText {
		if m := sizeText.FindStringSubmatch(t.Value); m != nil {
			count, err := strconv.ParseInt(m[1], 10, 64)
			unit, known := sizes[m[2]]
			n, ok = count*unit, err == nil && known && count <= math.MaxInt64/unit
		}
	}
	if ok && n >= least && n <= most {
		return n
	}
	s.d.wrong(v, fmt.Sprintf("a number of bytes from %s to %s, such as 64MiB or 500KB", Size(least), Size(most)))
	return 0
}

// Size returns a number of bytes in a form that a job file accepts.
func Size(n int64) string {
	for _, unit := range []string{"GiB", "MiB", "KiB"} {
		if u := sizes[unit]; n >= u && n%u == 0 {
			return strconv.FormatInt(n/u, 10) + unit
		}
	}
	return strconv.FormatInt(n, 10)
}

// file reads a path, from the job file's folder.
func (s *section) file(key, want string) string {
	return s.d.resolve(s.text(key, want))
}

func (d *decoder) resolve(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(d.dir, path)
}

// elements returns the elements of a list, or the value itself if it is not a list.
func elements(v value) []value {
	list, ok := v.node.(*ast.SequenceNode)
	if !ok {
		return []value{v}
	}
	vs := make([]value, len(list.Values))
	for i, n := range list.Values {
		vs[i] = value{path: fmt.Sprintf("%s[%d]", v.path, i), at: position(n), node: n}
	}
	return vs
}

// names reads a mapping whose keys are the user's own names, in the order of the names.
func (d *decoder) names(v value, valid *regexp.Regexp, want string) []value {
	values, _ := d.mapping(v, func(k string, at Position) bool {
		if !valid.MatchString(k) {
			d.fault(at, "%s: %q is not a valid name; want %s", v.path, k, want)
			return false
		}
		return true
	})
	return slices.SortedFunc(maps.Values(values), func(a, b value) int {
		return strings.Compare(a.key, b.key)
	})
}

// position returns the place of a node. For a mapping, the parser would return that of the colon.
func position(n ast.Node) Position {
	switch m := n.(type) {
	case nil:
		return Position{1, 1}
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return position(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return position(m.Key)
	}
	tk := n.GetToken()
	if tk == nil || tk.Position == nil {
		return Position{1, 1}
	}
	return Position{max(tk.Position.Line, 1), max(tk.Position.Column, 1)}
}

// describe says in a few words what a node is.
func describe(n ast.Node) string {
	switch n := n.(type) {
	case *ast.NullNode:
		return "nothing"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode:
		return strconv.Quote(short(n.Value))
	case *ast.LiteralNode:
		return strconv.Quote(short(n.Value.Value))
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return "an anchor, alias or merge, which job files do not have"
	case *ast.TagNode:
		return "a tag, which job files do not have"
	}
	if tk := n.GetToken(); tk != nil {
		return short(oneLine(tk.Value))
	}
	return "something else"
}

func short(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:37]) + "..."
	}
	return s
}
