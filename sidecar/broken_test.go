package sidecar

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// ends are the ways in which a function may not return.
var ends = map[string]func(){"panic": func() { panic("a mistake") }, "Goexit": runtime.Goexit}

// A codec that ends the goroutine, or whose error is a nil pointer, costs its own record, but not
// its neighbours or the place in the window.
func TestCodecThatBreaks(t *testing.T) {
	for name, do := range map[string]func() error{
		"panic":     func() error { panic("a mistake") },
		"Goexit":    func() error { runtime.Goexit(); return nil },
		"typed nil": func() error { var e *nilError; return e },
	} {
		for _, where := range []string{"Encode", "Decode"} {
			t.Run(where+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPeer(t)
					r := newRecorder(t)
					cfg := p.config()
					cfg.Window, cfg.MaxBatch = 1, 4
					c, err := NewAsyncFunction(cfg, clumsy{where, do}).Open(t.Context(), r.sub, r)
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					r.caller = c
					r.call(ramp(12)...)
					r.await()
					r.check(3, 4, 7)
					for _, i := range []uint64{3, 4, 7} {
						err := r.outcome[i].Err
						p, ok := errors.AsType[*async.PanicError](err)
						if !ok || !strings.Contains(p.Where, where+" of the codec") || async.VerdictOf(err).Class != async.BadRecord || r.twice > 0 {
							t.Errorf("record %d: %v", i, err)
						}
					}
				})
			})
		}
	}
}

type nilError struct{ what string }

func (e *nilError) Error() string { return e.what }

// clumsy doubles its input, and makes a mistake for some records.
type clumsy struct {
	where string
	do    func() error
}

func (c clumsy) Bind(tensor.Signature) (tensor.RowCodec[numbers, numbers], error) { return c, nil }

func (c clumsy) at(where string, in numbers) error {
	if where == c.where && (in[0] == 3 || in[0] == 4 || in[0] == 7) {
		return c.do()
	}
	return nil
}

func (c clumsy) Encode(dst *tensor.Batch, in numbers) error {
	if err := tensor.AppendValues(dst.Column(0), in); err != nil {
		return err
	}
	return c.at("Encode", in) // the row has begun already
}

func (c clumsy) Decode(in numbers, src *tensor.Rows, i int) (numbers, error) {
	if err := c.at("Decode", in); err != nil {
		return nil, err
	}
	return tensor.RowValues[float32](src.Output(0), i, nil)
}

// Config.Observe fails once: the rows of that request get an outcome, and the place in the window
// becomes free.
func TestObserveThatBreaks(t *testing.T) {
	for name, do := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t)
				r := newRecorder(t)
				cfg := p.config()
				cfg.Window = 1
				var requests atomic.Int64
				cfg.Observe = func(Request) {
					if requests.Add(1) == 1 {
						do()
					}
				}
				r.open(cfg)
				r.call(ramp(3)...)
				r.await()
				r.check(0, 1, 2)
				if p, ok := errors.AsType[*async.PanicError](r.outcome[0].Err); !ok || p.Where != "Config.Observe" || len(p.Stack) == 0 {
					t.Errorf("%v", r.outcome[0].Err)
				}
				r.call(ramp(6)[3:]...)
				r.await()
				r.check(0, 1, 2)
				if requests.Load() < 2 {
					t.Errorf("%d requests were observed", requests.Load())
				}
			})
		})
	}
}

// A failure that no record is to blame for is not a record's failure: the policies for records do
// not hide it.
func TestBrokenConfigurationFailsTheOperator(t *testing.T) {
	forgiving := async.OnError{Backend: async.Drop, BadRecord: async.Drop, Transport: async.Drop, Timeout: async.Drop, Permanent: async.Drop}
	for where, set := range map[string]func(cfg *Config, do func()){
		"Config.Observe": func(cfg *Config, do func()) { cfg.Observe = func(Request) { do() } },
		"the Dialer": func(cfg *Config, do func()) {
			dial, dials := cfg.Dialer, 0
			cfg.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
				if dials++; dials > 1 { // when the client reconnects
					do()
				}
				return dial(ctx, address)
			}
		},
	} {
		for name, do := range ends {
			t.Run(where+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPeer(t)
					var conn atomic.Pointer[net.Conn]
					p.infer = func(context.Context, *oip.ModelInferRequest, [][]float32) error {
						if c := conn.Load(); where == "the Dialer" && c != nil {
							(*c).Close() // the client reconnects
						}
						return nil
					}
					cfg := p.config()
					plain := cfg.Dialer
					cfg.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
						c, err := plain(ctx, address)
						if err == nil {
							conn.Store(&c)
						}
						return c, err
					}
					set(&cfg, do)
					began := time.Now()
					var end error
					for _, err := range async.Map(t.Context(), forever(numbers{1}), NewAsyncFunction(cfg, doubling), async.Config{OnError: forgiving}) {
						end = err
					}
					if p, ok := errors.AsType[*async.PanicError](end); !ok || p.Where != where || time.Since(began) > time.Minute {
						t.Errorf("it ended after %v with %v", time.Since(began), end)
					}
				})
			})
		}
	}
}

// forever yields v again and again.
func forever(v numbers) func(func(numbers, error) bool) {
	return func(yield func(numbers, error) bool) {
		for yield(v, nil) {
		}
	}
}
