package flink

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/guard"
	"github.com/tensorferry/tensorferry/sidecar"
)

// Failure is the error that ends a bundle. Flink keeps only the text of an error, so the text of a
// Failure is one line of JSON behind the word "tensorferry".
type Failure struct {
	// Operator is the name of the transform.
	Operator string `json:"operator"`
	// Class, Code and Reason are those of the failure. Code and Reason are empty if no model server
	// was called.
	Class  string `json:"class"`
	Code   string `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
	Model  string `json:"model,omitempty"`
	// Endpoint is the model server's address.
	Endpoint string `json:"endpoint,omitempty"`
	// Split and Position say which record failed. Both are -1 if the failure is not a record's. The
	// records of Infer have no place in a source: Split is then 0, and Position the record's place
	// in its bundle.
	Split    int   `json:"split"`
	Position int64 `json:"position"`
	// Message is the error's own text.
	Message string `json:"message"`

	cause error
}

// failureOf makes a Failure of the error of a transform.
func failureOf(operator string, err error) *Failure {
	err = guard.Error(operator, err)
	f := &Failure{Operator: operator, Class: async.VerdictOf(err).Class.String(), Split: -1, Position: -1, Message: err.Error(), cause: err}
	if r, ok := errors.AsType[*async.RecordError](err); ok {
		f.Split, f.Position = r.Split, r.Position
	}
	if s, ok := errors.AsType[*sidecar.Error](err); ok {
		f.Code, f.Reason, f.Model, f.Endpoint = string(s.Code), s.Reason, s.Model, s.Endpoint
	}
	return f
}

// mark stands before the line of JSON.
const mark = "tensorferry "

// Error returns one line.
func (f *Failure) Error() string {
	text, err := json.Marshal(f)
	if err != nil {
		return mark + f.Message
	}
	// Some readers end a line at U+0085, which JSON does not escape.
	return mark + strings.ReplaceAll(string(text), "\u0085", `\u0085`)
}

// Unwrap returns the error that the bundle failed with.
func (f *Failure) Unwrap() error { return f.cause }

// FailureIn finds a Failure in a text, such as an exception in Flink's history or the error of a
// submitted job. It returns nil if there is none.
func FailureIn(text string) *Failure {
	for rest := text; ; {
		_, after, found := strings.Cut(rest, mark+"{")
		if !found {
			return nil
		}
		var f Failure
		if json.NewDecoder(strings.NewReader("{"+after)).Decode(&f) == nil && f.Operator != "" {
			return &f
		}
		rest = after
	}
}
