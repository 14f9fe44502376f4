package jsoncodec

import (
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds the nesting of arrays and objects, as encoding/json does.
const maxDepth = 10000

// scanner walks over one record's bytes and accepts exactly what JSON's grammar does.
type scanner struct {
	data    []byte
	pos     int
	scratch []byte // for strings with escapes; reused
}

func (s *scanner) bad(format string, a ...any) error {
	return fmt.Errorf("invalid JSON at byte %d: %s", s.pos, fmt.Sprintf(format, a...))
}

// unexpected returns an error that says what stands in the place of want.
func (s *scanner) unexpected(want string) error {
	if s.pos >= len(s.data) {
		return s.bad("it ends where %s should follow", want)
	}
	return s.bad("%q where %s should follow", s.data[s.pos], want)
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// peek returns the next byte, or 0 at the end. A 0 is not valid in JSON.
func (s *scanner) peek() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

// str passes a string and returns what stands between its quotes.
func (s *scanner) str() (raw []byte, escaped bool, err error) {
	s.pos++
	start := s.pos
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return s.data[start : s.pos-1], escaped, nil
		case c < 0x20:
			return nil, false, s.bad("control character %#02x in a string", c)
		case c == '\\':
			escaped = true
			s.pos++
			switch s.peek() {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
				s.pos++
			case 'u':
				s.pos++
				for range 4 {
					if _, ok := hex(s.peek()); !ok {
						return nil, false, s.unexpected("a hexadecimal digit")
					}
					s.pos++
				}
			default:
				return nil, false, s.unexpected("an escape")
			}
		default:
			s.pos++
		}
	}
	return nil, false, s.unexpected("the end of a string")
}

func hex(c byte) (rune, bool) {
	switch {
	case c >= '0' && c <= '9':
		return rune(c - '0'), true
	case c >= 'a' && c <= 'f':
		return rune(c-'a') + 10, true
	case c >= 'A' && c <= 'F':
		return rune(c-'A') + 10, true
	}
	return 0, false
}

// unescape returns the text of raw, which str has checked. It returns false for half a surrogate
// pair, which is not Unicode. The text is valid until the next call.
func (s *scanner) unescape(raw []byte) ([]byte, bool) {
	out := s.scratch[:0]
	for i := 0; i < len(raw); {
		c := raw[i]
		if c != '\\' {
			out = append(out, c)
			i++
			continue
		}
		c = raw[i+1]
		i += 2
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r := unit(raw[i:])
			i += 4
			if utf16.IsSurrogate(r) {
				if len(raw)-i < 6 || raw[i] != '\\' || raw[i+1] != 'u' {
					return nil, false
				}
				if r = utf16.DecodeRune(r, unit(raw[i+2:])); r == utf8.RuneError {
					return nil, false
				}
				i += 6
			}
			out = utf8.AppendRune(out, r)
			continue
		}
		out = append(out, c)
	}
	s.scratch = out
	return out, true
}

// unit reads four hexadecimal digits.
func unit(raw []byte) rune {
	var r rune
	for _, c := range raw[:4] {
		d, _ := hex(c)
		r = r<<4 | d
	}
	return r
}

// number passes a number and returns it.
func (s *scanner) number() ([]byte, error) {
	start := s.pos
	if s.peek() == '-' {
		s.pos++
	}
	if s.peek() == '0' {
		s.pos++
	} else if err := s.digits(); err != nil {
		return nil, err
	}
	if s.peek() == '.' {
		s.pos++
		if err := s.digits(); err != nil {
			return nil, err
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.pos++
		if c := s.peek(); c == '+' || c == '-' {
			s.pos++
		}
		if err := s.digits(); err != nil {
			return nil, err
		}
	}
	return s.data[start:s.pos], nil
}

func (s *scanner) digits() error {
	start := s.pos
	for s.pos < len(s.data) && s.data[s.pos]-'0' <= 9 {
		s.pos++
	}
	if s.pos == start {
		return s.unexpected("a digit")
	}
	return nil
}

// word passes true, false or null.
func (s *scanner) word(w string) error {
	for i := range len(w) {
		if s.peek() != w[i] {
			return s.unexpected("the rest of " + w)
		}
		s.pos++
	}
	return nil
}

// skip passes a value of any kind. depth is the number of arrays and objects around it.
func (s *scanner) skip(depth int) error {
	switch c := s.peek(); {
	case c == '"':
		_, _, err := s.str()
		return err
	case c == '-' || c-'0' <= 9:
		_, err := s.number()
		return err
	case c == 't':
		return s.word("true")
	case c == 'f':
		return s.word("false")
	case c == 'n':
		return s.word("null")
	case c != '[' && c != '{':
		return s.unexpected("a value")
	}
	object := s.peek() == '{'
	if err := s.open(depth); err != nil {
		return err
	}
	for first := true; ; first = false {
		more, err := s.next(object, first)
		if !more {
			return err
		}
		if object {
			if _, _, err := s.name(); err != nil {
				return err
			}
		}
		if err := s.skip(depth + 1); err != nil {
			return err
		}
	}
}

// open passes the bracket that begins an array or object.
func (s *scanner) open(depth int) error {
	if depth >= maxDepth {
		return s.bad("nested deeper than %d", maxDepth)
	}
	s.pos++
	return nil
}

// next moves to the next element of an array or object, past the comma. At the end it moves past
// the end and returns false.
func (s *scanner) next(object, first bool) (bool, error) {
	end, want := byte(']'), "a comma or the array's end"
	if object {
		end, want = '}', "a comma or the object's end"
	}
	s.space()
	switch c := s.peek(); {
	case c == end:
		s.pos++
		return false, nil
	case first:
		return true, nil
	case c != ',':
		return false, s.unexpected(want)
	}
	s.pos++
	s.space()
	return true, nil
}

// name passes the name of an object's member, and the colon.
func (s *scanner) name() (raw []byte, escaped bool, err error) {
	if s.peek() != '"' {
		return nil, false, s.unexpected("a field's name")
	}
	if raw, escaped, err = s.str(); err != nil {
		return nil, false, err
	}
	s.space()
	if s.peek() != ':' {
		return nil, false, s.unexpected("a colon")
	}
	s.pos++
	s.space()
	return raw, escaped, nil
}

// kind names the value that begins here.
func (s *scanner) kind() string {
	switch c := s.peek(); {
	case c == '"':
		return "a string"
	case c == '-' || c-'0' <= 9:
		return "a number"
	case c == 't' || c == 'f':
		return "a boolean"
	case c == 'n':
		return "null"
	case c == '[':
		return "an array"
	case c == '{':
		return "an object"
	}
	return "no value"
}
