package mock

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/internal/enum"
	"github.com/tensorferry/tensorferry/sidecar/backend"
)

// Kind is what goes wrong.
type Kind uint8

const (
	// Fail answers with the fault's Error.
	Fail Kind = iota
	// BadRow refuses the rows that match, and names them.
	BadRow
	// Hang does not answer until the caller has gone.
	Hang
	// Panic panics.
	Panic
	// Crash ends the server like a killed process.
	Crash
	// Drop closes the connection on which the call came.
	Drop
	// Short answers with one row too few.
	Short
)

var kinds = []string{Fail: "fail", BadRow: "bad", Hang: "hang", Panic: "panic", Crash: "crash", Drop: "drop", Short: "short"}

func (k Kind) String() string { return enum.Name("kind", k, kinds) }

// Fault is one thing that goes wrong, and when. All conditions that are set must hold. A fault
// without First, Every and Row happens to every call.
type Fault struct {
	Kind Kind
	// Error is the answer of kind Fail.
	Error backend.Error
	// First and Last are the first and last number, counted from 1, of the calls to which it
	// happens. First 0: the number does not matter. Last 0: only the call First.
	First, Last int64
	// Every makes it happen to every n-th call. 0: the condition is off.
	Every int64
	// Row makes it happen to batches that have a row whose first input begins with this value. Nil:
	// the content does not matter.
	Row *float64
	// Times is how often it happens at most. 0: without limit.
	Times int
}

// ParseFault reads WHAT@WHEN[,times=N][,retry=DURATION].
//
// WHAT is a status code with or without a reason, such as UNAVAILABLE or
// RESOURCE_EXHAUSTED/QUEUE_FULL, or one of bad, hang, panic, crash, drop, short (see Kind). WHEN is
// the number of a call, from 1; a range of numbers, such as 3-5 or 3-; every=N; row=VALUE; or all.
// retry is how long the error asks the caller to wait.
func ParseFault(s string) (Fault, error) {
	refuse := func(err error) (Fault, error) {
		return Fault{}, fmt.Errorf("fault %q: %w; want WHAT@WHEN[,times=N][,retry=DURATION], as RESOURCE_EXHAUSTED/QUEUE_FULL@3-5,retry=10ms or hang@row=13", s, err)
	}
	what, rest, ok := strings.Cut(s, "@")
	if !ok {
		return refuse(errors.New("no @"))
	}
	var f Fault
	if i := slices.Index(kinds[1:], what); i >= 0 {
		f.Kind = Kind(i + 1)
	} else {
		code, reason, _ := strings.Cut(what, "/")
		c, err := ParseCode(code)
		if err != nil {
			return refuse(err)
		}
		f.Error = backend.Error{Code: c, Reason: reason, Message: "scripted failure"}
	}
	parts := strings.Split(rest, ",")
	if err := f.parseWhen(parts[0]); err != nil {
		return refuse(err)
	}
	for _, p := range parts[1:] {
		name, value, _ := strings.Cut(p, "=")
		var err error
		switch name {
		case "times":
			if f.Times, err = strconv.Atoi(value); err == nil && f.Times < 1 {
				err = errors.New("times must be at least 1")
			}
		case "retry":
			if f.Error.RetryAfter, err = time.ParseDuration(value); err == nil && f.Error.RetryAfter < 0 {
				err = errors.New("retry must not be negative")
			}
		default:
			err = fmt.Errorf("unknown %q", p)
		}
		if err != nil {
			return refuse(err)
		}
	}
	if err := f.validate(); err != nil {
		return refuse(err)
	}
	return f, nil
}

func (f *Fault) parseWhen(when string) error {
	if when == "all" {
		return nil
	}
	if v, ok := strings.CutPrefix(when, "row="); ok {
		x, err := strconv.ParseFloat(v, 64)
		f.Row = &x
		return err
	}
	number := func(s string) (int64, error) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 1 {
			return 0, fmt.Errorf("%q is not the number of a call (1 or higher)", s)
		}
		return n, nil
	}
	var err error
	if v, ok := strings.CutPrefix(when, "every="); ok {
		f.Every, err = number(v)
		return err
	}
	first, last, isRange := strings.Cut(when, "-")
	if f.First, err = number(first); err != nil || !isRange {
		return err
	}
	if last == "" {
		f.Last = math.MaxInt64
		return nil
	}
	if f.Last, err = number(last); err == nil && f.Last < f.First {
		err = fmt.Errorf("the range %s is empty", when)
	}
	return err
}

// ParseCode reads the name of a status code other than OK, such as UNAVAILABLE.
func ParseCode(s string) (codes.Code, error) {
	var c codes.Code
	if quoted, err := json.Marshal(s); err != nil || s == "" || c.UnmarshalJSON(quoted) != nil || c == codes.OK {
		return 0, fmt.Errorf("%q is neither a status code of a failure nor a kind of fault", s)
	}
	return c, nil
}

func (f Fault) validate() error {
	switch {
	case int(f.Kind) >= len(kinds):
		return fmt.Errorf("unknown kind %d", f.Kind)
	case f.Kind == Fail && (f.Error.Code == codes.OK || f.Error.Code > codes.Unauthenticated):
		return fmt.Errorf("status code %d does not stand for a failure", f.Error.Code)
	case f.Kind == BadRow && f.Row == nil:
		return errors.New("a bad row needs row=VALUE")
	case f.First < 0 || f.Every < 0 || f.Times < 0 || f.Last < 0 || f.Last != 0 && f.Last < f.First:
		return errors.New("a number of calls is negative, or a range is empty")
	}
	return nil
}

// String returns the fault in the form that ParseFault reads.
func (f Fault) String() string {
	var b strings.Builder
	if f.Kind == Fail {
		b.WriteString(codeName(f.Error.Code))
		if f.Error.Reason != "" {
			b.WriteString("/" + f.Error.Reason)
		}
	} else {
		b.WriteString(f.Kind.String())
	}
	switch {
	case f.Row != nil:
		fmt.Fprintf(&b, "@row=%v", *f.Row)
	case f.Every > 0:
		fmt.Fprintf(&b, "@every=%d", f.Every)
	case f.First > 0 && f.Last == math.MaxInt64:
		fmt.Fprintf(&b, "@%d-", f.First)
	case f.First > 0 && f.Last > f.First:
		fmt.Fprintf(&b, "@%d-%d", f.First, f.Last)
	case f.First > 0:
		fmt.Fprintf(&b, "@%d", f.First)
	default:
		b.WriteString("@all")
	}
	if f.Times > 0 {
		fmt.Fprintf(&b, ",times=%d", f.Times)
	}
	if f.Error.RetryAfter > 0 {
		fmt.Fprintf(&b, ",retry=%v", f.Error.RetryAfter)
	}
	return b.String()
}

// codeName returns the protocol's name of a code, such as NOT_FOUND. The code's String method
// returns another form (NotFound).
func codeName(c codes.Code) string {
	for _, name := range [...]string{"CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL",
		"UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"} {
		if got, err := ParseCode(name); err == nil && got == c {
			return name
		}
	}
	return c.String()
}

// Schedule decides which fault happens on which call. It is safe for concurrent
// use.
type Schedule struct {
	mu     sync.Mutex
	faults []Fault
	left   []int
}

// NewSchedule makes a schedule of the faults, in their order. It returns an error for a fault that
// cannot happen.
func NewSchedule(faults []Fault) (*Schedule, error) {
	s := &Schedule{}
	for _, f := range faults {
		if err := s.Add(f); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Add adds a fault after the existing ones. It returns an error for a fault that cannot happen.
func (s *Schedule) Add(f Fault) error {
	if err := f.validate(); err != nil {
		return fmt.Errorf("fault %q: %w", f, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
	left := f.Times
	if left == 0 {
		left = math.MaxInt
	}
	s.left = append(s.left, left)
	return nil
}

// Match returns the first fault whose conditions hold for the call with this number, and counts it.
// first are the first values of the call's rows. The returned rows are those whose value equals the
// fault's Row, numbered from 0.
func (s *Schedule) Match(call int64, first []float64) (f Fault, rows []int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.faults {
		if s.left[i] == 0 {
			continue
		}
		if f.First > 0 && (call < f.First || call > max(f.First, f.Last)) || f.Every > 0 && call%f.Every != 0 {
			continue
		}
		rows = rows[:0]
		if f.Row != nil {
			for r, v := range first {
				if v == *f.Row {
					rows = append(rows, r)
				}
			}
			if len(rows) == 0 {
				continue
			}
		}
		if s.left[i] != math.MaxInt {
			s.left[i]--
		}
		return f, rows, true
	}
	return Fault{}, nil, false
}
