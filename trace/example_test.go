package trace_test

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/trace"
)

// printer is a Tracer that prints spans. It records everything. A real Tracer gives each span its
// own id.
type printer struct{}

func (printer) Start(parent *trace.Context, name string, _ trace.Kind, _ time.Time, _ ...*trace.Context) trace.Span {
	fmt.Println(name, "begins")
	return &printed{name: name, ctx: trace.Context{TraceID: [16]byte{1}, SpanID: [8]byte{2}, Flags: 1}}
}

type printed struct {
	name string
	ctx  trace.Context
}

func (p *printed) Context() *trace.Context { return &p.ctx }
func (p *printed) Set(attrs ...trace.Attr) {}
func (p *printed) Event(_ time.Time, name string, _ ...trace.Attr) {
	fmt.Println(p.name, "is", name)
}
func (p *printed) End(_ time.Time, err error) { fmt.Println(p.name, "ends with", err) }

// Your own Tracer follows each record from its admission to its emission.
func Example() {
	double := async.Func(func(_ context.Context, v int) (int, error) { return 2 * v, nil }, 1)
	for v, err := range async.Map(context.Background(), async.Values(slices.Values([]int{21})), double, async.Config{Tracer: printer{}}) {
		fmt.Println(v, err)
	}
	// Output:
	// map begins
	// map is called
	// map is answered
	// map ends with <nil>
	// 42 <nil>
}
