package stream

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// The simulation runs whole jobs on one goroutine: the tasks, the coordinator, the
// committer and the supervisor are stepped by a heap of events, whose times and
// faults come from a seed. The process may crash at any event and between any two
// changes of the disk; it then starts again, perhaps with another
// parallelism, and resumes.

type simEvent struct {
	at    time.Time
	seq   int
	label string
	proc  *simProc // nil: of no process
	run   func()
}

type simHeap []*simEvent

func (h simHeap) Len() int { return len(h) }
func (h simHeap) Less(i, j int) bool {
	return cmp.Or(h[i].at.Compare(h[j].at), cmp.Compare(h[i].seq, h[j].seq)) < 0
}
func (h simHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *simHeap) Push(x any)   { *h = append(*h, x.(*simEvent)) }
func (h *simHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

// simSeen counts what happened, over many seeds: a test in which nothing went wrong shows nothing.
type simSeen struct {
	events, crashes, atDisk, restarts, checkpoints, kept, aborted, rescaled, recommits int
}

type sim struct {
	t     *testing.T
	seed  uint64
	rng   *rand.Rand
	heap  simHeap
	seq   int
	hash  uint64
	disk  *disk
	lost  *disk // of the dead letters; crashes with disk
	proc  *simProc
	boots int
	done  bool
	err   error
	// faults that are left; without a bound no run would end.
	faults   int
	lastFail int
	seen     simSeen

	job simJob
}

func (s *sim) chance(p float64) bool { return s.rng.Float64() < p }

// strike says whether a fault happens now.
func (s *sim) strike(p float64) bool {
	if s.faults == 0 || !s.chance(p) {
		return false
	}
	s.faults--
	return true
}

func (s *sim) after(p *simProc, d time.Duration, label string, run func()) {
	s.seq++
	heap.Push(&s.heap, &simEvent{at: time.Now().Add(d), seq: s.seq, label: label, proc: p, run: run})
}

func (s *sim) note(format string, a ...any) {
	h := fnv.New64a()
	fmt.Fprintf(h, "%x %s %s", s.hash, time.Now(), fmt.Sprintf(format, a...))
	s.hash = h.Sum64()
}

// small is a delay of the scheduler's making.
func (s *sim) small() time.Duration { return time.Duration(s.rng.IntN(3000)) * time.Microsecond }

func simulate(t *testing.T, seed uint64) *sim {
	s := &sim{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 7)), disk: newDisk(), lost: newDisk(), faults: 0, lastFail: -1}
	s.faults = s.rng.IntN(14)
	s.job = simJob{
		order: async.Order(s.rng.IntN(3)), policy: async.BarrierPolicy(s.rng.IntN(3)), exchange: exchange(s.rng.IntN(3)),
		tail: s.chance(0.2), fan: s.chance(0.4), twice: s.chance(0.3), filter: s.chance(0.3), split: s.chance(0.4),
		interval: time.Duration(5+s.rng.IntN(100)) * time.Millisecond,
		slow:     time.Duration(1+s.rng.IntN(40)) * time.Millisecond,
	}
	next := 0
	for range s.rng.IntN(6) {
		var split []int
		for range s.rng.IntN(60) {
			split = append(split, next)
			next++
		}
		s.job.splits = append(s.job.splits, split)
	}
	s.disk.point = func(at string) {
		s.note("disk %s", at)
		if s.strike(0.02) {
			s.disk.crashed = true
			s.seen.atDisk++
		}
	}
	s.lost.point = func(at string) {
		s.disk.point(at)
		s.lost.crashed = s.disk.crashed
	}
	s.disk.fault = func(at string) error {
		if !s.strike(0.01) {
			return nil
		}
		if s.chance(0.5) {
			return errors.New("not done: " + at)
		}
		return errors.New("done, and yet an error: " + at)
	}
	s.after(nil, 0, "boot", s.boot)
	for !s.done && s.heap.Len() > 0 {
		e := heap.Pop(&s.heap).(*simEvent)
		if e.proc != nil && e.proc.dead {
			continue
		}
		time.Sleep(time.Until(e.at))
		s.note("%s", e.label)
		if s.seen.events++; s.seen.events > 400_000 {
			s.err = errors.New("the simulation does not end")
			break
		}
		e.run()
		if s.proc != nil && !s.proc.dead && (s.disk.crashed || s.strike(0.0005)) {
			s.crash()
		}
	}
	if !s.done && s.err == nil {
		s.err = errors.New("nothing is left to happen, and the job has not ended")
	}
	if s.proc != nil {
		s.proc.kill()
	}
	s.seen.recommits = s.disk.recommits
	return s
}

func (s *sim) crash() {
	s.seen.crashes++
	s.note("crash")
	s.proc.kill()
	s.disk.crashed, s.lost.crashed = false, false
	s.after(nil, time.Second, "boot", s.boot)
}

// simSeeds is how many histories a run of the tests goes through; TENSORFERRY_LONG=1
// makes it twenty times as many.
func simSeeds() uint64 {
	if os.Getenv("TENSORFERRY_LONG") != "" {
		return 12_000
	}
	return 600
}

// TestSimulation: whatever fails, and wherever the process crashes, the published output is that
// of an undisturbed run, and the counts balance.
func TestSimulation(t *testing.T) {
	var all simSeen
	shapes := map[string]int{}
	for seed := range simSeeds() {
		synctest.Test(t, func(t *testing.T) {
			s := simulate(t, seed)
			if err := s.check(); err != nil {
				t.Fatalf("seed %d, %+v: %v", seed, s.job, err)
			}
			shapes[fmt.Sprintf("%v %v %v", s.job.order, s.job.policy, s.job.exchange)]++
			all.events += s.seen.events
			all.crashes += s.seen.crashes
			all.atDisk += s.seen.atDisk
			all.restarts += s.seen.restarts
			all.checkpoints += s.seen.checkpoints
			all.kept += s.seen.kept
			all.aborted += s.seen.aborted
			all.rescaled += s.seen.rescaled
			all.recommits += s.seen.recommits
		})
	}
	t.Logf("%+v over %d shapes: %v", all, len(shapes), slices.Sorted(maps.Keys(shapes)))
	if all.crashes < 100 || all.atDisk < 20 || all.restarts < 100 || all.checkpoints < 1000 || all.kept < 100 || all.aborted < 20 || all.recommits < 5 {
		t.Errorf("too little happened for the test to mean much: %+v", all)
	}
}

// TestSimulationIsDeterministic: the same seed gives the same history.
func TestSimulationIsDeterministic(t *testing.T) {
	for seed := uint64(1000); seed < 1020; seed++ {
		var hashes [2]uint64
		for i := range hashes {
			synctest.Test(t, func(t *testing.T) { hashes[i] = simulate(t, seed).hash })
		}
		if hashes[0] != hashes[1] {
			t.Errorf("seed %d has the histories %x and %x", seed, hashes[0], hashes[1])
		}
	}
}
