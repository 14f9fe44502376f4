//go:build integration

package servers

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/tensor"
)

// logged is what a channel says.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logged) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), what)
}

// sharing is a configuration by which everything goes to shared memory that can.
func sharing(s *server, model string) (sidecar.Config, *logged) {
	var log logged
	return sidecar.Config{Endpoint: s.endpoint(), Model: model, MaxMessageSize: 128 << 20,
		SharedMemory: 192 << 20, SharedMemoryMin: 1,
		Logger: slog.New(slog.NewTextHandler(&log, nil))}, &log
}

// regions are the names that the server knows. ok: it has shared memory at all.
func (s *server) regions() (names []string, ok bool) {
	ctx, cancel := ask(5 * time.Second)
	defer cancel()
	resp, err := s.dial(s.t).SystemSharedMemoryStatus(ctx, &oip.SystemSharedMemoryStatusRequest{})
	for name := range resp.GetRegions() {
		names = append(names, name)
	}
	return names, err == nil
}

// checkShared checks that the channel has used shared memory where the server has it, that it has
// said so, and that nothing is left.
func checkShared(t *testing.T, s *server, log *logged) {
	t.Helper()
	const used, unused = "large tensors travel by shared memory", "shared memory is not used"
	left, has := s.regions()
	if want := map[bool]string{true: used, false: unused}[has]; log.count(want) != 1 || log.count(used)+log.count(unused) != 1 {
		t.Errorf("the server has shared memory: %v; the channel says:\n%s", has, log.buf.String())
	}
	if has != (s.name == "triton") {
		t.Errorf("%s has shared memory: %v", s.name, has)
	}
	// Triton may take a moment to let go of one.
	for end := time.Now().Add(10 * time.Second); len(left) > 0 && time.Now().Before(end); left, _ = s.regions() {
		<-time.After(20 * time.Millisecond)
	}
	if len(left) > 0 {
		t.Errorf("regions are still registered: %v", left)
	}
	objects, err := os.ReadDir("/dev/shm")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range objects {
		if strings.HasPrefix(e.Name(), "tensorferry-") {
			t.Errorf("left: %s", e.Name())
		}
	}
}

// Everything goes through shared memory that can. To a server without it, it goes in requests.
func sharedMemory(t *testing.T, s *server) {
	s.sharing = true
	defer func() { s.sharing = false }()
	t.Run("datatypes", func(t *testing.T) { datatypes(t, s) })
	t.Run("dynamic shapes", func(t *testing.T) { dynamicShapes(t, s) })
	t.Run("large rows", func(t *testing.T) { largeRows(t, s) })
	t.Run("timeouts", func(t *testing.T) { sharedTimeouts(t, s) })
}

// Records that time out while the model has their slot do not spoil those that follow.
func sharedTimeouts(t *testing.T, s *server) {
	cfg, _ := sharing(s, "odd")
	cfg.Window, cfg.MaxBatch, cfg.SharedMemory = 2, 1, 64<<10
	slow := func(i int) bool { return i%10 == 0 && i < 50 }
	in := ints(200, func(i int) int32 {
		if slow(i) {
			return 2000 // takes a second
		}
		return int32(i)
	})
	late, i := 0, 0
	results := async.Map(t.Context(), in, sidecar.NewAsyncFunction(cfg, tensor.Values[int32, int32]("x", "y")),
		async.Config{Capacity: 8, Timeout: 300 * time.Millisecond, OnError: async.OnError{Timeout: async.Drop}})
	var got []int32
	for out, err := range results {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, out[0])
	}
	// What is not slow may be late too, since the model does one thing at a time. None may have
	// another's result.
	for _, v := range got {
		for i < 200 && (slow(i) || v != int32(2*i)) {
			i++
			late++
		}
		if i == 200 {
			t.Fatalf("%d is the result of no record, or of one that should come earlier; all: %v", v, got)
		}
		i++
	}
	if late += 200 - i; late < 5 || len(got) < 20 {
		t.Errorf("%d records timed out and %d have results; 5 take too long", late, len(got))
	}
	t.Logf("%d records timed out, %d have results", late, len(got))
}

// The server is killed in mid-run and started again, with records in shared memory.
func sharedKilled(t *testing.T, s *server) {
	os.Remove(s.executedFile())
	const n = 1500
	cfg, log := sharing(s, "odd")
	var restarting sync.WaitGroup
	defer restarting.Wait()
	i := 0
	for out, err := range async.Map(t.Context(), ints(n, func(i int) int32 { return int32(1001 + i%5) }),
		sidecar.NewAsyncFunction(cfg, tensor.Values[int32, int32]("x", "y")), async.Config{Capacity: 32, Timeout: async.Off, Barrier: async.Snapshot}) {
		if err != nil {
			t.Fatal(err)
		}
		if out[0] != int32(2*(1001+i%5)) {
			t.Fatalf("record %d became %d", i, out[0])
		}
		if i++; i == n/5 {
			restarting.Go(func() {
				s.process.Kill()
				s.start()
			})
		}
	}
	if i != n {
		t.Errorf("%d results for %d records", i, n)
	}
	if c := log.count("large tensors travel by shared memory"); c != 2 {
		t.Errorf("%d rings were registered, with a server that was started twice:\n%s", c, log.buf.String())
	}
}
