package main

import (
	"errors"
	"flag"
	"strconv"
	"strings"
)

// decimal is the value of a flag that is a whole number, 0 or more. Package flag would read 010 as
// octal 8.
type decimal[T int | int64 | uint64] struct{ to *T }

// decimalVar adds a flag that is a whole number, written like those of a job file.
func decimalVar[T int | int64 | uint64](fs *flag.FlagSet, to *T, name string, value T, usage string) {
	*to = value
	fs.Var(decimal[T]{to}, name, usage)
}

func (d decimal[T]) String() string {
	if d.to == nil {
		return "0"
	}
	return strconv.FormatUint(uint64(*d.to), 10)
}

func (d decimal[T]) Set(text string) error {
	digits, base := strings.ReplaceAll(text, "_", ""), 10
	if p := strings.ToLower(digits); strings.HasPrefix(p, "0x") || strings.HasPrefix(p, "0b") {
		base = 0
	}
	n, err := strconv.ParseUint(digits, base, 64)
	if v := T(n); err == nil && v >= 0 && uint64(v) == n {
		*d.to = v
		return nil
	}
	if err == nil || errors.Is(err, strconv.ErrRange) {
		return errors.New("it is too large")
	}
	return errors.New("want a whole number, 0 or more")
}
