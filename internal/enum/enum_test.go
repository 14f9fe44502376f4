package enum_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/async/asynctest"
	"github.com/tensorferry/tensorferry/connector/kafka"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/tensor/jsoncodec"
	"github.com/tensorferry/tensorferry/trace"
)

// the makes the values of an enumeration, of any numbers.
func the[E interface {
	~uint8
	fmt.Stringer
}](v uint8) fmt.Stringer {
	return E(v)
}

// TestNames: every value has its own name, and a number that is no value never has one of theirs.
func TestNames(t *testing.T) {
	for _, c := range []struct {
		of    func(uint8) fmt.Stringer
		names string // in the order of the values
		what  string
	}{
		{the[async.Class], "backend, record, timeout, overload, transport, permanent", "class"},
		{the[async.Order], "ordered, unordered, keyed", "order"},
		{the[async.BarrierPolicy], "default, drain, snapshot", "barrier policy"},
		{the[async.Action], "fail, drop, fallback, dead_letter", "action"},
		{the[asynctest.Kind], "result, dead letter, watermark, barrier, end", "kind"},
		{the[trace.Kind], "internal, client, server", "kind"},
		{the[checkpoint.Phase], "empty, unfinished, finished", "phase"},
		{the[kafka.OnExpired], "fail, earliest", "on_expired"},
		{the[jsoncodec.NaN], "null, fail, string", "nan"},
		{the[mock.Kind], "fail, bad, hang, panic, crash, drop, short", "kind"},
	} {
		t.Run(fmt.Sprintf("%T", c.of(0)), func(t *testing.T) {
			names := strings.Split(c.names, ", ")
			for i := range 256 {
				want := fmt.Sprintf("%s(%d)", c.what, i)
				if i < len(names) {
					want = names[i]
				}
				if got := c.of(uint8(i)).String(); got != want {
					t.Errorf("%d is %q, want %q", i, got, want)
				}
			}
			for i := range names {
				v := c.of(uint8(i))
				if n := testing.AllocsPerRun(100, func() { _ = v.String() }); n != 0 {
					t.Errorf("the name of %v takes %v allocations", v, n)
				}
			}
		})
	}
}

// TestNoNumberWraps: no package takes an index modulo the number of names, which gives a number
// that is no value the name of one.
func TestNoNumberWraps(t *testing.T) {
	files := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		files++
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if i, ok := n.(*ast.IndexExpr); ok {
				_, literal := i.X.(*ast.CompositeLit)
				if by, ok := i.Index.(*ast.BinaryExpr); literal && ok && by.Op == token.REM {
					t.Errorf("%s: a number that is no value gets the name of one; see enum.Name", set.Position(i.Pos()))
				}
			}
			return true
		})
		return nil
	})
	if err != nil || files == 0 {
		t.Fatalf("%d files, and the error is %v", files, err)
	}
}
