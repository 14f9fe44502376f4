package sidecar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/shm"
	"github.com/tensorferry/tensorferry/tensor"
)

// sharingPeer serves shared memory, and its client uses it for everything.
func sharingPeer(t testing.TB, row ...int64) (*peerServer, Config) {
	p := newPeer(t, row...)
	p.shared = &sharedMemory{regions: map[string]*os.File{}}
	cfg := p.config()
	cfg.Window = 1 // two slots
	cfg.SharedMemory, cfg.SharedMemoryMin = 2*minSlot, 1
	return p, cfg
}

// check checks that no region and no object is left.
func (m *sharedMemory) check(t *testing.T) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.regions) > 0 {
		t.Errorf("%d regions are still registered", len(m.regions))
	}
	for _, key := range m.keys {
		if _, err := os.Stat("/dev/shm" + key); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", key, err)
		}
	}
}

func TestSharedMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, cfg := sharingPeer(t, 3)
		cfg.MaxBatch, cfg.Window, cfg.SharedMemory = 8, 3, 6*minSlot
		r := newRecorder(t)
		r.deadline = time.Second
		c := r.open(cfg)
		p.shared.registered(t, 1)
		r.call(rampOf(100, 3)...)
		r.await()
		r.check()
		offsets := map[int]bool{}
		for i, q := range p.shared.requests() {
			if q.in.Size == 0 || q.in.Size != q.out.Size || q.in.Offset == q.out.Offset || q.timeout != 1e6 {
				t.Errorf("request %d: %+v", i, q)
			}
			offsets[q.in.Offset] = true
		}
		if len(offsets) > 6 {
			t.Errorf("%d places for requests; there are 6 slots", len(offsets))
		}
		c.Close()
		p.shared.check(t)
	})
}

// An answer that names another request, or another model, is not used as a result with shared
// memory either. The slots become free again.
func TestSharedAnswersAreIdentified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, cfg := sharingPeer(t, 3)
		cfg.MaxBatch, cfg.Window, cfg.SharedMemory = 1, 2, 4*minSlot
		var n atomic.Int64
		p.answer = func(resp *oip.ModelInferResponse) {
			if n.Add(1)%2 == 1 {
				resp.Id = "op/0.0-1000"
			}
		}
		r := newRecorder(t)
		c := r.open(cfg)
		r.call(rampOf(40, 3)...)
		r.await()
		failed := 0
		for i, v := range r.records {
			switch out := r.outcome[uint64(i)]; {
			case errors.Is(out.Err, ErrBadOutput):
				failed++
			case out.Err != nil || out.Outputs.At(0)[0] != 2*v[0]:
				t.Errorf("record %d: %+v", i, out)
			}
		}
		if failed != 20 {
			t.Errorf("%d records failed of the 20 whose answers named another request", failed)
		}
		for i, q := range p.shared.requests() {
			if q.in.Size == 0 {
				t.Errorf("request %d had no slot: earlier slots were not released", i)
			}
		}
		c.Close()
		p.shared.check(t)
	})
}

// registered checks that n regions are registered, and that no object has a name any more.
func (m *sharedMemory) registered(t *testing.T, n int) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.regions) != n {
		t.Errorf("%d regions are registered, want %d", len(m.regions), n)
	}
	for _, key := range m.keys {
		if _, err := os.Stat("/dev/shm" + key); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", key, err)
		}
	}
}

func rampOf(n, width int) []numbers {
	out := ramp(n)
	for i, v := range out {
		out[i] = slices.Repeat(v, width)
	}
	return out
}

// gate blocks some requests until their channels are closed.
type gate struct {
	mu   sync.Mutex
	held map[int]chan struct{}
}

func newGate(requests ...int) *gate {
	g := &gate{held: map[int]chan struct{}{}}
	for _, n := range requests {
		g.held[n] = make(chan struct{})
	}
	return g
}

func (g *gate) pass(n int) error {
	g.mu.Lock()
	c := g.held[n]
	g.mu.Unlock()
	if c != nil {
		<-c
	}
	return nil
}

// A record that timed out leaves its slot to the server, which reads and writes it later. No other
// request uses the slot before the server has ended the first (A50). While all slots are taken,
// tensors travel in requests.
func TestSlotIsHeldUntilTheServerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, cfg := sharingPeer(t)
		slow := newGate(0, 1)
		p.shared.before = slow.pass
		r := newRecorder(t)
		c := r.open(cfg)
		for e := range uint64(2) {
			r.call(numbers{float32(e + 1)})
			synctest.Wait()
			c.Cancel([]async.CallID{{Entry: e}})
			r.Complete([]async.Completion[numbers]{{ID: async.CallID{Entry: e}, Err: errors.New("timed out")}})
		}
		r.call(ramp(100)[50:]...)
		r.await()
		r.check(0, 1)
		requests := p.shared.requests()
		away := []int{requests[0].in.Offset, requests[1].in.Offset}
		if requests[0].in.Size == 0 || requests[1].in.Size == 0 || away[0] == away[1] {
			t.Fatalf("the first requests: %+v", requests[:2])
		}
		for i, q := range requests[2:] {
			if q.in.Size > 0 || q.out.Size > 0 {
				t.Errorf("request %d is in a slot; both are away: %+v", i+2, q)
			}
		}
		close(slow.held[0])
		close(slow.held[1])
		synctest.Wait()
		requests = p.shared.requests()
		for i := range 2 {
			if want := float32(i + 1); requests[i].first != want {
				t.Errorf("the server found %v in the slot of record %d, which is %v", requests[i].first, i, want)
			}
		}
		// Now the slots are free again.
		r.call(ramp(20)...)
		r.await()
		r.check(0, 1)
		all := p.shared.requests()
		if last := all[len(all)-1]; !slices.Contains(away, last.in.Offset) || last.in.Size == 0 {
			t.Errorf("the last request: %+v; the slots that were away: %v", last, away)
		}
	})
}

// The same with a connection that breaks: what the server still does to the old ring harms no other
// record.
func TestRingIsRetiredWithTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, cfg := sharingPeer(t)
		slow := newGate(0)
		p.shared.before = slow.pass
		r := newRecorder(t)
		c := r.open(cfg)
		r.call(numbers{1})
		synctest.Wait()
		p.drop()
		r.await()
		r.call(ramp(30)...)
		r.await()
		r.check()
		requests := p.shared.requests()
		for i, q := range requests[1:] {
			if q.in.Region == requests[0].in.Region {
				t.Errorf("request %d is in the ring of the lost connection: %+v", i+1, q)
			}
		}
		if q := requests[len(requests)-1]; q.in.Size == 0 {
			t.Errorf("no new ring was made: %+v", q)
		}
		if !slices.Contains(p.shared.gone, requests[0].in.Region) {
			t.Error("the region of the lost connection is still registered")
		}
		close(slow.held[0])
		synctest.Wait()
		if got := p.shared.requests()[0].first; got != 1 {
			t.Errorf("the server found %v in the lost request's slot, which held 1", got)
		}
		c.Close()
		p.shared.check(t)
	})
}

func TestSharedMemoryOfARestartedServer(t *testing.T) {
	for name, restart := range map[string]func(*peerServer){
		"restarted": func(p *peerServer) { p.kill(); p.shared.forget(); p.start() },
		"forgotten": func(p *peerServer) { p.shared.forget() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, cfg := sharingPeer(t)
				r := newRecorder(t)
				c := r.open(cfg)
				for range 3 {
					r.call(ramp(50)...)
					r.await()
					restart(p)
				}
				r.call(ramp(5)...)
				r.await()
				r.call(ramp(5)...)
				r.await()
				r.check()
				requests := p.shared.requests()
				if last := requests[len(requests)-1]; last.in.Size == 0 {
					t.Errorf("the last request is not in shared memory: %+v", last)
				}
				c.Close()
				p.shared.check(t)
			})
		})
	}
}

// logged collects the channel's log.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// A server without shared memory gets its tensors in requests, and that is logged once.
func TestWithoutSharedMemory(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*peerServer, *Config)
		said  string
	}{
		"no such call": {func(p *peerServer, _ *Config) { p.shared = nil }, "Method not found!"},
		"refused": {func(p *peerServer, _ *Config) {
			p.shared.refuse = func(*oip.SystemSharedMemoryRegisterRequest) error {
				return status.Error(codes.Internal, "Unable to open shared memory region")
			}
		}, "Unable to open shared memory region"},
		"too small": {func(p *peerServer, _ *Config) {
			p.sig.Inputs[0].Row, p.sig.Outputs[0].Row = []int64{1 << 12}, []int64{1 << 12}
		}, "a row of the model's inputs has 16384 bytes"},
		"refused for the request": {func(p *peerServer, _ *Config) {
			p.shared.before = func(int) error {
				if n := len(p.shared.requests()); p.shared.requests()[n-1].in.Size > 0 {
					return status.Error(codes.Internal, "shared memory size specified with the request for output 'y' should be at least 9 bytes")
				}
				return nil
			}
		}, "should be at least 9 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, cfg := sharingPeer(t)
				c.spoil(p, &cfg)
				var log logged
				cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
				r := newRecorder(t)
				ch := r.open(cfg)
				width := int(p.sig.Inputs[0].Row[0])
				for range 3 {
					r.call(rampOf(40, width)...)
					r.await()
				}
				r.check()
				if strings.Count(log.String(), "shared memory is not used") != 1 || !strings.Contains(log.String(), c.said) {
					t.Errorf("want once why shared memory is not used: %s\nlog: %s", c.said, log.String())
				}
				ch.Close()
				if p.shared != nil {
					p.shared.check(t)
				}
			})
		})
	}
}

// Rows without a fixed size go into the slot if they fit.
func TestSharedMemoryOfAnySize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, cfg := sharingPeer(t, -1)
		r := newRecorder(t)
		r.open(cfg)
		for _, width := range []int{10, 800, 900, 5000, 10} { // a slot has 4096 bytes
			r.call(slices.Repeat(numbers{3}, width))
			r.await()
		}
		r.check()
		for i, q := range p.shared.requests() {
			if inSlot := i != 3; (q.in.Size > 0) != inSlot || q.out.Size > 0 {
				t.Errorf("request %d: %+v", i, q)
			}
		}
	})
}

// Regions that dead processes have registered are unregistered, and no others.
func TestSharedMemoryIsSwept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, cfg := sharingPeer(t)
		dead, err := shm.NewClaim()
		if err != nil {
			t.Fatal(err)
		}
		living, err := shm.NewClaim()
		if err != nil {
			t.Fatal(err)
		}
		defer living.Free()
		for _, name := range []string{dead.Name() + "-1", living.Name() + "-1", "input0_data", "tensorferry-"} {
			p.shared.regions[name] = nil
		}
		dead.Free()
		r := newRecorder(t)
		r.open(cfg)
		if want := []string{dead.Name() + "-1"}; !slices.Equal(p.shared.gone, want) {
			t.Errorf("unregistered: %v, want %v", p.shared.gone, want)
		}
	})
}

// If a channel is closed in mid-run, its memory is unregistered, but not reused under the server.
func TestCloseWithSharedMemoryInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, cfg := sharingPeer(t)
		cfg.Window, cfg.SharedMemory = 3, 6*minSlot
		slow := newGate(0, 1, 2, 3)
		p.shared.before = slow.pass
		r := newRecorder(t)
		c := r.open(cfg)
		r.call(numbers{1})
		synctest.Wait()
		c.Cancel([]async.CallID{{Entry: 0}}) // one request is abandoned
		r.call(numbers{2})
		synctest.Wait()
		c.Close()
		p.shared.check(t)
		for n := range 4 {
			close(slow.held[n])
		}
		synctest.Wait()
		if got := p.shared.requests(); got[0].first != 1 || got[1].first != 2 {
			t.Errorf("the server found %v and %v in the slots", got[0].first, got[1].first)
		}
	})
}

// A server may answer a request and still use its memory. It is asked again when the channel is
// closed.
func TestCloseAsksABusyServerAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, cfg := sharingPeer(t)
		r := newRecorder(t)
		c := r.open(cfg)
		r.call(numbers{1})
		synctest.Wait()
		p.shared.mu.Lock()
		p.shared.busy = 3
		p.shared.mu.Unlock()
		c.Close()
		p.shared.mu.Lock()
		defer p.shared.mu.Unlock()
		if len(p.shared.gone) != 1 || p.shared.busy != 0 {
			t.Errorf("unregistered: %v; %d refusals are left", p.shared.gone, p.shared.busy)
		}
	})
}

func TestDivide(t *testing.T) {
	p, _ := sharingPeer(t)
	for _, c := range []struct {
		in, out []int64
		rows    int
		placed  bool // outputs
	}{
		{[]int64{16}, []int64{16}, 7, true},    // 64 + 64 bytes a row, in 1024 less two cache lines
		{[]int64{1}, []int64{1}, 10, true},     // as many as asked
		{[]int64{128}, []int64{128}, 1, false}, // only the input fits
		{[]int64{-1}, []int64{16}, 7, true},    // half is kept for inputs without a fixed size
		{[]int64{1000}, []int64{1}, 0, false},
	} {
		sig := p.sig
		sig.Inputs, sig.Outputs = slices.Clone(sig.Inputs), slices.Clone(sig.Outputs)
		sig.Inputs[0].Row, sig.Outputs[0].Row = c.in, c.out
		l, err := divide(&sig, 1024, 10)
		if err != nil {
			if c.rows > 0 {
				t.Errorf("%v to %v: %v", c.in, c.out, err)
			}
			continue
		}
		if l.rows != c.rows || (l.outputs[0].size > 0) != c.placed {
			t.Errorf("%v to %v: %+v", c.in, c.out, l)
		}
		if end := l.inputs[0].at + l.inputs[0].size; end > 1024 || l.outputs[0].at+l.outputs[0].size > 1024 ||
			l.inputs[0].at < l.outputs[0].at+l.outputs[0].size && l.outputs[0].at < end {
			t.Errorf("%v to %v: parts overlap or leave the slot: %+v", c.in, c.out, l)
		}
	}
}

// A model whose many columns are texts needs a larger slot. Open does without shared memory then,
// and does not panic.
func TestDivideAmongManyTexts(t *testing.T) {
	sig := tensor.Signature{Model: "m", Batched: true, Outputs: []tensor.Spec{{Name: "y", DType: tensor.Bytes, Row: tensor.Shape{1}}}}
	for n := 1; n <= 200; n++ {
		sig.Inputs = append(sig.Inputs, tensor.Spec{Name: fmt.Sprint("c", n), DType: tensor.Bytes, Row: tensor.Shape{1}})
		l, err := divide(&sig, minSlot, 32)
		if (err == nil) != (n < 32) {
			t.Fatalf("%d inputs: %v", n, err)
		}
		if err != nil {
			continue
		}
		for i, s := range l.inputs {
			if s.size <= 0 || s.at+s.size > minSlot {
				t.Errorf("input %d of %d: %+v", i, n, s)
			}
		}
	}
}

func TestSharedMemoryConfig(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Endpoint: "unix:///run/s.sock"}, ""},
		{Config{Endpoint: "localhost:8001"}, ""},
		{Config{Endpoint: "127.0.0.1:8001"}, ""},
		{Config{Endpoint: "[::1]:8001"}, ""},
		{Config{Endpoint: "gpu.example:8001"}, "another machine"},
		{Config{Endpoint: "10.0.0.7:8001"}, "another machine"},
		{Config{Endpoint: "127.0.0.1:8001", SharedMemory: 100}, "want 0 for none, or 32768 (8 slots of 4096)"},
		{Config{Endpoint: "127.0.0.1:8001", SharedMemory: -1}, "want 0 for none"},
		{Config{Endpoint: "127.0.0.1:8001", SharedMemoryMin: -1}, "least bytes for shared memory"},
	} {
		c.cfg.Model = "m"
		if c.cfg.SharedMemory == 0 {
			c.cfg.SharedMemory = 1 << 20
		}
		err := c.cfg.Validate()
		if got := fmt.Sprint(err); (c.want == "") != (err == nil) || !strings.Contains(got, c.want) && c.want != "" {
			t.Errorf("%s: %v, want %q", c.cfg.Endpoint, err, c.want)
		}
	}
}

// A status that the server sent is distinguished from the same status made on this side.
func TestEndings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, cfg := sharingPeer(t)
		p.shared = nil
		slow := newGate(1, 2)
		n := -1
		p.infer = func(context.Context, *oip.ModelInferRequest, [][]float32) error {
			n++
			slow.pass(n)
			return status.Error(codes.Unavailable, "the server's own word")
		}
		cfg, ep, err := cfg.resolve()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := dial(&cfg, ep, &wire{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for i, c := range []struct {
			name   string
			during func()
			ended  bool
		}{
			{"answered", func() {}, true},
			{"deadline", func() {}, false},
			{"connection lost", p.drop, false},
		} {
			var e ended
			ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), endedKey{}, &e), time.Second)
			time.AfterFunc(time.Second/2, c.during)
			err := conn.Invoke(ctx, oip.GRPCInferenceService_ModelInfer_FullMethodName, &oip.ModelInferRequest{
				Inputs: []*oip.ModelInferRequest_InferInputTensor{{Shape: []int64{1, 1}}}, RawInputContents: [][]byte{make([]byte, 4)},
			}, &oip.ModelInferResponse{})
			if err == nil || e.Load() != c.ended {
				t.Errorf("%s: %v, ended by the server: %v", c.name, err, e.Load())
			}
			cancel()
			if i > 0 {
				close(slow.held[i])
			}
		}
	})
}
