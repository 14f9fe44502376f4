package onnx

import (
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"sort"
	"strings"

	"github.com/gomlx/gomlx/pkg/core/graph"
	"github.com/gomlx/gomlx/pkg/core/tensors"
	mlcontext "github.com/gomlx/gomlx/pkg/ml/context"
)

// executor makes an executor that gives these outputs of operators. The graph itself is built when
// it is compiled.
func (m *Model) executor(outputs []string) (*mlcontext.Exec, error) {
	names := make([]string, len(m.sig.Inputs))
	for i, in := range m.sig.Inputs {
		names[i] = in.Name
	}
	exec, err := mlcontext.NewExecAny(m.engine, m.weights, func(ctx *mlcontext.Context, nodes []*graph.Node) []*graph.Node {
		inputs := make(map[string]*graph.Node, len(nodes))
		for i, n := range nodes {
			inputs[names[i]] = n
		}
		return m.model.CallGraph(ctx, nodes[0].Graph(), inputs, outputs...)
	})
	if err != nil {
		return nil, fmt.Errorf("compile: %w", err)
	}
	return exec, nil
}

// compile builds the graph for the arguments' shapes, if it is not there yet. Why it cannot be
// built is kept, since to find that out takes many times as long. One graph is built at a time:
// while it builds one, GoMLX writes into what it has of the model.
func (m *Model) compile(g *compiled, args []any) error {
	if g.tried.Load() {
		return g.err
	}
	m.compiling.Lock()
	defer m.compiling.Unlock()
	if !g.tried.Load() {
		if err := caught(func() error { return g.exec.PreCompile(args...) }); err != nil {
			g.err = m.unsupported(err, func(exec *mlcontext.Exec) error { return exec.PreCompile(args...) })
		}
		g.tried.Store(true)
	}
	return g.err
}

// runGraph runs a graph that is built.
func runGraph(exec *mlcontext.Exec, args []any) (results []*tensors.Tensor, err error) {
	err = caught(func() error {
		results, err = exec.Exec(args...)
		return err
	})
	return results, err
}

// unsupported is the error of a model that uses what pure Go does not have.
type unsupported struct {
	op      string // empty: not known
	missing bool   // there is no such operator, whatever it is given
	cause   string
}

func (e *unsupported) Error() string {
	what := "operator " + e.op
	if e.op == "" {
		what = "the model's graph"
	}
	what += " is not supported in pure Go; use ONNX Runtime"
	if e.cause != "" {
		what += ": " + e.cause
	}
	return what
}

// unimplemented is how GoMLX says that it has no such operator, which may stand in a graph inside
// another.
var unimplemented = regexp.MustCompile(`unimplemented ONNX op "([^"]*)"`)

// unsupported says of which operator an error is, which GoMLX has no word of when its own code
// fails. try does again what failed, with another part of the model.
func (m *Model) unsupported(cause error, try func(*mlcontext.Exec) error) error {
	if found := unimplemented.FindStringSubmatch(cause.Error()); found != nil {
		return &unsupported{op: found[1], missing: true}
	}
	e := &unsupported{op: m.culprit(try)}
	// an index out of range, say, tells nobody anything
	if _, ok := errors.AsType[runtime.Error](cause); !ok {
		e.cause = brief(cause)
	}
	return e
}

// culprit returns the first operator with which, and with all before it, try fails, or "".
func (m *Model) culprit(try func(*mlcontext.Exec) error) string {
	fails := func(n int) bool {
		outputs := make([]string, n)
		for i := range outputs {
			outputs[i] = m.nodes[i].output
		}
		exec, err := m.executor(outputs)
		if err != nil {
			return true
		}
		defer exec.Finalize()
		return caught(func() error { return try(exec) }) != nil
	}
	if i := sort.Search(len(m.nodes), func(i int) bool { return fails(i + 1) }); i < len(m.nodes) {
		return m.nodes[i].op
	}
	return ""
}

// caught calls f, and returns a panic as an error.
func caught(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			var ok bool
			if err, ok = p.(error); !ok {
				err = fmt.Errorf("%v", p)
			}
		}
	}()
	return f()
}

// brief is the beginning of what an error says at its root: GoMLX's say on the way there in which
// of its functions it was, and may hold whole weights.
func brief(err error) string {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + " ..."
	}
	return text
}
