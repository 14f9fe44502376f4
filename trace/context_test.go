package trace

import (
	"strings"
	"testing"
)

const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestParse(t *testing.T) {
	c := Parse([]byte(parent), []byte("a=1,b=2"))
	if c == nil || !c.Sampled() || !c.Remote || c.State != "a=1,b=2" || c.Parent() != parent {
		t.Fatalf("%+v", c)
	}
	if c.TraceID[0] != 0x4b || c.SpanID[7] != 0xb7 {
		t.Errorf("ids %x %x", c.TraceID, c.SpanID)
	}
	later := Parse("cc"+parent[2:]+"-what-comes-later", "")
	if later == nil || later.Parent() != parent {
		t.Errorf("a later version is read as %+v", later)
	}
	if got := Parse(parent[:53]+"00", "a=1"); got != Unsampled {
		t.Errorf("an unsampled context is %+v", got)
	}
	for _, state := range []string{"a=\x01", "a=é", "a=" + strings.Repeat("x", maxState)} {
		if got := Parse(parent, state); got == nil || got.State != "" {
			t.Errorf("the state %.20q is kept: %+v", state, got)
		}
	}
	for _, bad := range []string{"", "00", parent + "-", parent + "0", parent[:54], "ff" + parent[2:], "0g" + parent[2:],
		strings.ToUpper(parent), strings.Replace(parent, "4bf92f3577b34da6a3ce929d0e0e4736", strings.Repeat("0", 32), 1),
		strings.Replace(parent, "00f067aa0ba902b7", strings.Repeat("0", 16), 1), strings.Replace(parent, "-", "_", 1),
		parent[:53] + "0x", "cc" + parent[2:] + "x", parent[:36] + strings.Repeat("-", 16) + parent[52:]} {
		if got := Parse(bad, ""); got != nil {
			t.Errorf("%q is read as %+v", bad, got)
		}
	}
	var none *Context
	if none.Sampled() || Unsampled.Sampled() {
		t.Error("a context that is not sampled says that it is")
	}
}

// A context that is not sampled costs nothing, in any form.
func TestUnsampledAllocatesNothing(t *testing.T) {
	text, state := []byte(parent[:53]+"00"), []byte("a=1")
	if n := testing.AllocsPerRun(100, func() {
		if Parse(text, state) != Unsampled || Parse(text[:20], state) != nil {
			t.Fatal("Parse did not return Unsampled")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(parent, "a=1")
	f.Add("cc"+parent[2:]+"-x", "")
	f.Fuzz(func(t *testing.T, p, s string) {
		c := Parse(p, s)
		if c == nil || c == Unsampled {
			return
		}
		if again := Parse(c.Parent(), c.State); again == nil || *again != *c {
			t.Errorf("%q, %q is read as %+v, and that again as %+v", p, s, c, again)
		}
	})
}

func TestAttributes(t *testing.T) {
	if v, ok := Text("k", "v").Text(); v != "v" || !ok {
		t.Errorf("%q, %v", v, ok)
	}
	if _, ok := Int("k", 3).Text(); ok || Int("k", 3).Int() != 3 {
		t.Error("Int does not return the number")
	}
}
