package oteltrace_test

import (
	"context"
	"fmt"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/trace/oteltrace"
)

// A job sends its spans to the program's own provider. Here every record is sampled, and the spans
// stay in memory.
func Example() {
	spans := tracetest.NewInMemoryExporter()
	provider := sdk.NewTracerProvider(sdk.WithSyncer(spans), sdk.WithSampler(sdk.ParentBased(sdk.AlwaysSample())))
	defer provider.Shutdown(context.Background())

	double := async.Func(func(_ context.Context, v int) (int, error) { return 2 * v, nil }, 1)
	j := stream.New("doubles", stream.Config{Tracer: oteltrace.New(provider, 1)})
	results := stream.Collect(stream.OrderedWait(stream.From(j, stream.FromSlice([]int{1, 2})), double, async.Config{}, stream.Name("double")))
	if err := j.Run(context.Background()); err != nil {
		fmt.Println(err)
	}
	fmt.Println(results.Results())
	for _, s := range spans.GetSpans() {
		fmt.Println(s.Name, s.Events[0].Name, s.Events[1].Name)
	}
	// Output:
	// [2 4]
	// double called answered
	// double called answered
}
