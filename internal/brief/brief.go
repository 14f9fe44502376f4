// Package brief keeps what others say short. A message of a server may have any length, and one
// failure may be told many times: in an error, a line of the log, and a dead letter for each
// record of a request. So it is cut where it comes in. The package must never know who said it, or
// why.
package brief

import (
	"fmt"
	"unicode/utf8"
)

// Most is how many bytes of a message are kept.
const Most = 4 << 10

// Text is Cut at Most.
func Text(text string) string { return Cut(text, Most) }

// Cut returns a text that has most bytes or fewer as it is, and of a longer one the beginning,
// with how long it was: most bytes in all, if that is room enough to say so. No character is cut
// in two.
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

// Error returns err with a message of at most Most bytes. What it wraps is found as before.
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
