package flink

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"sync"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/flink/internal/idle"
	"github.com/tensorferry/tensorferry/internal/guard"
)

// pools has the pool of lanes for each pair of types.
var pools sync.Map

func lanesOf[IN, OUT any]() *idle.Pool[*lane[IN, OUT]] {
	p, _ := pools.LoadOrStore(reflect.TypeFor[lane[IN, OUT]](), new(idle.Pool[*lane[IN, OUT]]))
	return p.(*idle.Pool[*lane[IN, OUT]])
}

// bundle is the common part of this package's transforms: it runs the records of a bundle on a
// lane.
type bundle[IN, OUT any] struct {
	cfg  Config
	key  string
	make func() (async.Function[IN, OUT], error)
	to   taker[IN, OUT]
	lane *lane[IN, OUT] // nil until the bundle's first record
	seen int64          // the bundle's records so far
}

// setup is called once for each instance of a transform. The transform's exported fields define it
// completely.
func (b *bundle[IN, OUT]) setup(transform any, c Config, make func() (async.Function[IN, OUT], error), to taker[IN, OUT]) error {
	text, err := json.Marshal(transform)
	if err != nil {
		return err
	}
	*b = bundle[IN, OUT]{cfg: c, key: fmt.Sprintf("%T%s", transform, text), make: make, to: to}
	return nil
}

// start forgets the lane of an earlier bundle that never finished. The pool closes that lane.
func (b *bundle[IN, OUT]) start() { b.lane, b.seen = nil, 0 }

// process admits a record. With the bundle's first record it takes a lane.
func (b *bundle[IN, OUT]) process(ctx context.Context, rec *async.Record[IN]) error {
	if b.lane == nil {
		l, err := lanesOf[IN, OUT]().Take(ctx, b.key, func(ctx context.Context, index int) (*lane[IN, OUT], error) {
			var fn async.Function[IN, OUT]
			err := guard.Apart("the Maker's Function", func() (err error) {
				fn, err = b.make()
				return err
			})
			if err != nil {
				return nil, err
			}
			return openLane(ctx, fn, b.cfg, index, slog.Default())
		})
		if err != nil {
			return failureOf(b.cfg.Name, err)
		}
		b.lane = l
	}
	b.seen++
	if err := b.lane.process(ctx, rec, b.to); err != nil {
		return b.end(err)
	}
	return nil
}

// finish drains.
func (b *bundle[IN, OUT]) finish(ctx context.Context) error {
	if b.lane == nil {
		return nil // no record came
	}
	return b.end(b.lane.drain(ctx, b.to))
}

// end returns the lane to the pool, or closes it after an error.
func (b *bundle[IN, OUT]) end(err error) error {
	l := b.lane
	b.lane = nil
	if err != nil {
		lanesOf[IN, OUT]().Drop(l)
		return failureOf(b.cfg.Name, err)
	}
	lanesOf[IN, OUT]().Give(l)
	return nil
}
