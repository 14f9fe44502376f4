// Package idle keeps things that are slow to open (channels, readers, writers) from bundle to
// bundle. Beam's workers do not say when a job ends, so a thing that was not used for long is
// closed.
package idle

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// Limit is how long an unused thing is kept.
const Limit = 10 * time.Second

// ErrAbandoned says that a thing was closed because its bundle had not used it for longer than
// Limit.
var ErrAbandoned = errors.New("it was closed because its bundle had not used it for too long")

// Thing is what a pool keeps.
type Thing interface {
	comparable
	// Close releases the thing's resources. It is called once, from any goroutine, and waits
	// until the thing is not in use.
	Close() error
	// Abandoned reports whether the thing is not in use, and has not been in use since a time.
	// It does not block.
	Abandoned(since time.Time) bool
}

// Pool keeps things. A bundle that takes a thing has it alone until it gives or drops it. A bundle
// that fails elsewhere never returns what it took. That is also closed when it was not used for
// Limit. A Pool is safe for concurrent use. Its zero value is empty.
type Pool[T Thing] struct {
	mu      sync.Mutex
	free    map[string][]T
	lent    map[T]loan
	closing int            // things that are being closed, and are in neither map
	next    map[string]int // the next index of each key
	sweeps  bool
}

// loan describes a thing that a bundle has taken. The thing's own time of last use may still be
// that of an earlier bundle.
type loan struct {
	key   string
	since time.Time
}

// busy are the pools that hold something.
var busy sync.Map

// CloseAll closes everything that is not in use, in all pools of the process, and reports whether
// everything is closed then. It is for a process that ends.
func CloseAll() (all bool) {
	all = true
	busy.Range(func(p, _ any) bool {
		pool := p.(interface {
			CloseUnused(time.Time)
			empty() bool
		})
		pool.CloseUnused(time.Now().Add(Limit)) // later than every use
		all = pool.empty() && all
		return true
	})
	return all
}

// Take returns a free thing of a key, or opens a new one. index numbers the things of a key.
func (p *Pool[T]) Take(ctx context.Context, key string, open func(ctx context.Context, index int) (T, error)) (T, error) {
	p.mu.Lock()
	if p.lent == nil {
		p.free, p.lent, p.next = map[string][]T{}, map[T]loan{}, map[string]int{}
	}
	if all := p.free[key]; len(all) > 0 {
		t := all[len(all)-1]
		p.free[key] = all[:len(all)-1]
		p.lent[t] = loan{key, time.Now()}
		p.mu.Unlock()
		return t, nil
	}
	index := p.next[key]
	p.next[key]++
	p.mu.Unlock()
	t, err := open(ctx, index)
	if err != nil {
		return t, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lent[t] = loan{key, time.Now()}
	if !p.sweeps {
		p.sweeps = true
		busy.Store(p, true)
		go p.sweep()
	}
	return t, nil
}

// Give returns a thing to the pool, for further use.
func (p *Pool[T]) Give(t T) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l, ok := p.lent[t]
	if !ok {
		return // it was abandoned, and closed
	}
	delete(p.lent, t)
	p.free[l.key] = append(p.free[l.key], t)
}

// Drop closes a thing that has failed.
func (p *Pool[T]) Drop(t T) {
	p.mu.Lock()
	_, ok := p.lent[t]
	if ok {
		delete(p.lent, t)
		p.closing++
	}
	p.mu.Unlock()
	if ok {
		p.shut(t)
	}
}

// shut closes a thing that closing counts.
func (p *Pool[T]) shut(t T) {
	if err := t.Close(); err != nil {
		slog.Warn("an idle channel, reader or writer could not be closed", "error", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closing--
}

// empty reports whether nothing is left.
func (p *Pool[T]) empty() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.free) == 0 && len(p.lent) == 0 && p.closing == 0
}

// sweep closes unused things from time to time, and ends when nothing is left.
func (p *Pool[T]) sweep() {
	tick := time.NewTicker(Limit / 10)
	defer tick.Stop()
	for now := range tick.C {
		if p.sweepOnce(now.Add(-Limit)) {
			return
		}
	}
}

// sweepOnce closes things that were not used since a time, and reports whether nothing is left.
func (p *Pool[T]) sweepOnce(since time.Time) (empty bool) {
	p.CloseUnused(since)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) > 0 || len(p.lent) > 0 || p.closing > 0 {
		return false
	}
	clear(p.next)
	p.sweeps = false
	busy.Delete(p)
	return true
}

// CloseUnused closes things that were not used since a time.
func (p *Pool[T]) CloseUnused(since time.Time) {
	var old []T
	p.mu.Lock()
	for key, all := range p.free {
		kept := all[:0]
		for _, t := range all {
			if t.Abandoned(since) {
				old = append(old, t)
			} else {
				kept = append(kept, t)
			}
		}
		clear(all[len(kept):])
		if p.free[key] = kept; len(kept) == 0 {
			delete(p.free, key)
		}
	}
	for t, l := range p.lent {
		if l.since.Before(since) && t.Abandoned(since) {
			old = append(old, t)
			delete(p.lent, t)
		}
	}
	p.closing += len(old)
	p.mu.Unlock()
	for _, t := range old {
		p.shut(t)
	}
}
