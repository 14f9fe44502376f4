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

// executor makes an executor that computes these outputs of operators. The graph itself is built
// when it is compiled.
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

// compile builds the graph for the arguments' shapes, unless that was tried before. If the graph
// cannot be built the error is kept, because finding the operator at fault takes many times as long
// as building. One graph is built at a time: while it builds, GoMLX writes into its own form of the
// model.
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

// runGraph runs a graph that was built.
func runGraph(exec *mlcontext.Exec, args []any) (results []*tensors.Tensor, err error) {
	err = caught(func() error {
		results, err = exec.Exec(args...)
		return err
	})
	return results, err
}

// unsupported is the error of a model that uses something that does not work in pure Go.
type unsupported struct {
	op      string // empty: not known
	missing bool   // GoMLX does not have the operator, whatever its inputs
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

// unimplemented matches GoMLX's error for an operator that it does not have. The operator may be in
// a nested graph, which culprit does not search.
var unimplemented = regexp.MustCompile(`unimplemented ONNX op "([^"]*)"`)

// unsupported makes an error that names the operator that caused a failure. GoMLX does not name it
// when its own code fails. try repeats what failed, with an executor for a part of the model.
func (m *Model) unsupported(cause error, try func(*mlcontext.Exec) error) error {
	if found := unimplemented.FindStringSubmatch(cause.Error()); found != nil {
		return &unsupported{op: found[1], missing: true}
	}
	e := &unsupported{op: m.culprit(try)}
	// A runtime error of Go, such as an index out of range, does not help the user.
	if _, ok := errors.AsType[runtime.Error](cause); !ok {
		e.cause = brief(cause)
	}
	return e
}

// culprit returns the first operator for which try fails if the graph ends with it. It returns ""
// if try succeeds with every operator.
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

// brief returns the first line of an error's root cause, at most 300 bytes of it. The errors that
// GoMLX wraps around it name GoMLX's own functions, and may hold whole weights.
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
