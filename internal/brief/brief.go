// Package brief shortens messages from others. A server's message may have any length, and one
// failure may be reported many times: in an error, a line of the log, and a dead letter for each
// record of a request. So the message is cut where it comes in. The package must never know who
// sent the message, or why.
package brief

import (
	"fmt"
	"unicode/utf8"
)

// Most is how many bytes of a message are kept.
const Most = 4 << 10

// Text is Cut at Most.
func Text(text string) string { return Cut(text, Most) }

// Cut returns a text of at most most bytes unchanged. Of a longer text it returns the beginning and
// a note of the original length, together most bytes, or the note alone if it does not fit. It does
// not cut a character in two.
func Cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	note := fmt.Sprintf(" ... (cut; it has %d bytes)", len(text))
	keep := max(most-len(note), 0)
	for back := 1; back < utf8.UTFMax && keep > 0 && !utf8.RuneStart(text[keep]); back++ {
		keep--
	}
	return text[:keep] + note
}

// Error returns err with a message of at most Most bytes. errors.Is and errors.As still find what
// err wraps.
func Error(err error) error {
	if err == nil {
		return nil
	}
	if text := err.Error(); len(text) > Most {
		return &shortened{Text(text), err}
	}
	return err
}

type shortened struct {
	text string
	err  error
}

func (e *shortened) Error() string { return e.text }

func (e *shortened) Unwrap() error { return e.err }
