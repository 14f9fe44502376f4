package flink

import (
	"context"
	"fmt"
	"reflect"
	"sync"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/flink/internal/eventtime"
)

// Failed is a record that failed for good, in the collection of dead letters.
type Failed[IN any] struct {
	Record IN
	// Class is the async.Class as text: "record", "timeout", "overload", "transport", "backend" or
	// "permanent".
	Class string
	Error string
	// Attempts is the number of calls that were made for the record.
	Attempts int
	// At is when the record failed, in milliseconds since the Unix epoch.
	At int64
}

// registered has the types of the transforms that this program has registered with Beam.
var registered sync.Map

// Register tells Beam about Infer for these types. Call it from an init function, once for each
// combination of types, in the program that submits and in the program of the workers. Preferably
// both are the same program.
func Register[IN, OUT any, M Maker[IN, OUT]]() {
	register.DoFn5x1[context.Context, beam.EventTime, IN, func(beam.EventTime, OUT), func(beam.EventTime, Failed[IN]), error](&inferFn[IN, OUT, M]{})
	register.Emitter2[beam.EventTime, OUT]()
	register.Emitter2[beam.EventTime, Failed[IN]]()
	beam.RegisterType(reflect.TypeFor[Failed[IN]]())
	registered.Store(reflect.TypeFor[inferFn[IN, OUT, M]](), true)
}

// Infer calls the function of m for the records of a collection. The results have the event times
// of their records. failed holds the records whose failure has the action async.DeadLetter. If the
// pipeline is wrong, Infer panics as Beam's own transforms do; TryInfer returns an error instead.
func Infer[IN, OUT any, M Maker[IN, OUT]](s beam.Scope, records beam.PCollection, m M, c Config) (results, failed beam.PCollection) {
	results, failed, err := TryInfer[IN, OUT](s, records, m, c)
	if err != nil {
		panic(err)
	}
	return results, failed
}

// TryInfer is Infer, and returns an error if the pipeline is wrong: a bad configuration, a
// collection in windows, or types that are not registered.
func TryInfer[IN, OUT any, M Maker[IN, OUT]](s beam.Scope, records beam.PCollection, m M, c Config) (results, failed beam.PCollection, err error) {
	return apply(s, records, m, c, func(cargo shipment) any { return &inferFn[IN, OUT, M]{Cargo: cargo} },
		fmt.Sprintf("Register[%v, %v, %v]", reflect.TypeFor[IN](), reflect.TypeFor[OUT](), reflect.TypeFor[M]()))
}

// apply adds a transform to a pipeline. transform makes it from the shipment. register names the
// function that registers it with Beam.
func apply[M any](s beam.Scope, records beam.PCollection, m M, c Config, transform func(shipment) any, register string) (results, failed beam.PCollection, err error) {
	c, err = c.resolve()
	var cargo shipment
	if err == nil {
		cargo, err = pack(m, c)
	}
	if err == nil {
		err = inGlobalWindow(c.Name, records)
	}
	if err != nil {
		return results, failed, err
	}
	fn := transform(cargo)
	if _, ok := registered.Load(reflect.TypeOf(fn).Elem()); !ok {
		return results, failed, fmt.Errorf("flink: %s: its types are not registered; add func init() { flink.%s() }", c.Name, register)
	}
	out, err := beam.TryParDo(s.Scope(c.Name), fn, records)
	if err != nil {
		return results, failed, fmt.Errorf("flink: %s: %w", c.Name, err)
	}
	return out[0], out[1], nil
}

// inGlobalWindow refuses windows. Results that leave at the end of a bundle may belong to any of
// its records, and there Beam can assign only the global window.
func inGlobalWindow(name string, records beam.PCollection) error {
	if !records.IsValid() {
		return fmt.Errorf("flink: %s: the collection is not valid; want one that a transform returned", name)
	}
	if fn := records.WindowingStrategy().Fn; fn.Kind != window.GlobalWindows {
		return fmt.Errorf("flink: %s: the collection is in %v; call Infer first and window its results, or put the collection into the global window "+
			"(beam.WindowInto(s, window.NewGlobalWindows(), ...)) before", name, fn)
	}
	return nil
}

// inferFn is the operator as Beam sees it. One instance serves one bundle at a time.
type inferFn[IN, OUT any, M Maker[IN, OUT]] struct {
	Cargo shipment

	b    bundle[IN, OUT]
	emit func(beam.EventTime, OUT)
	fail func(beam.EventTime, Failed[IN])
}

// Setup is called once for each instance.
func (f *inferFn[IN, OUT, M]) Setup() error {
	m, c, err := unpack[M](f.Cargo)
	if err != nil {
		return err
	}
	return f.b.setup(f, c, m.Function, taker[IN, OUT]{
		result: func(r *async.Record[OUT]) { f.emit(eventtime.ToBeam(r.Time), r.Value) },
		failed: func(x *async.Failed[IN]) {
			f.fail(eventtime.ToBeam(x.Record.Time), Failed[IN]{Record: x.Record.Value, Class: x.Class.String(), Error: x.Err.Error(), Attempts: x.Attempts, At: x.At.UnixMilli()})
		},
	})
}

// StartBundle begins.
func (f *inferFn[IN, OUT, M]) StartBundle(context.Context, func(beam.EventTime, OUT), func(beam.EventTime, Failed[IN])) {
	f.b.start()
}

// ProcessElement admits a record.
func (f *inferFn[IN, OUT, M]) ProcessElement(ctx context.Context, at beam.EventTime, v IN, emit func(beam.EventTime, OUT), fail func(beam.EventTime, Failed[IN])) error {
	f.emit, f.fail = emit, fail
	return f.b.process(ctx, &async.Record[IN]{Value: v, Time: eventtime.FromBeam(at), Position: f.b.seen})
}

// FinishBundle drains.
func (f *inferFn[IN, OUT, M]) FinishBundle(ctx context.Context, emit func(beam.EventTime, OUT), fail func(beam.EventTime, Failed[IN])) error {
	f.emit, f.fail = emit, fail
	return f.b.finish(ctx)
}
