package main

import (
	"flag"
	"testing"

	"github.com/tensorferry/tensorferry/internal/cli"
)

// A flag's number is decimal, as a person reads it.
func TestDecimalFlags(t *testing.T) {
	for _, c := range []struct {
		text string
		want int
		ok   bool
	}{
		{"10", 10, true}, {"010", 10, true}, {"08", 8, true}, {"0", 0, true}, {"1_000", 1000, true}, {"0x10", 16, true},
		{"0o10", 0, false}, {"1e3", 0, false}, {"-1", 0, false}, {"", 0, false}, {"ten", 0, false},
		{"9223372036854775808", 0, false}, {"99999999999999999999", 0, false},
	} {
		var got int
		fs := cli.Flags("test")
		decimalVar(fs, &got, "n", 7, "")
		if err := fs.Parse([]string{"--n=" + c.text}); (err == nil) != c.ok || c.ok && got != c.want || !c.ok && got != 7 {
			t.Errorf("--n=%s is %d (%v), want %d", c.text, got, err, c.want)
		}
	}
	var f *flag.Flag
	newServerFlags("sidecar").set.VisitAll(func(fl *flag.Flag) {
		if fl.Name == "max-batch" {
			f = fl
		}
	})
	if f == nil || f.DefValue != "256" {
		t.Errorf("%+v", f)
	}
}
