package asyncq

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// The queue stays a pure state machine: nothing in it starts, waits, locks, reads a clock,
// does I/O, or depends on the order of a map.
func TestQueueIsPure(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		read++
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if i.Path.Value != `"slices"` {
				t.Errorf("%s imports %s", name, i.Path.Value)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n.(type) {
			case *ast.GoStmt, *ast.ChanType, *ast.SelectStmt, *ast.SendStmt, *ast.MapType:
				t.Errorf("%s: a %T has no place here", set.Position(n.Pos()), n)
			}
			return true
		})
	}
	if read < 4 {
		t.Errorf("only %d files were looked at", read)
	}
}
