package sidecar

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// How a server may respond to the question whether its model takes requests.
type standing int32

const (
	refused  standing = iota // no connection
	hangs                    // the connection is never completed
	mute                     // connected, and no answer
	loading                  // connected, and the model is not ready
	unknown                  // connected, does not know the model, and is not ready itself
	full                     // connected, and has no room
	standsBy                 // ready
)

// said holds the error for each; no other error may match.
var said = map[standing]error{refused: ErrUnreachable, hangs: ErrUnreachable, mute: ErrTimeout, loading: ErrNotReady, unknown: ErrNotReady, full: ErrOverloaded}

// stand makes a peer respond as now says, which its hooks read.
func stand(t *testing.T, p *peerServer, now *atomic.Int32, cfg *Config) {
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	dialer := cfg.Dialer
	cfg.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
		switch standing(now.Load()) {
		case refused:
			return nil, errors.New("connection refused")
		case hangs:
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return dialer(ctx, address)
	}
	p.live = func() error {
		switch standing(now.Load()) {
		case mute:
			<-over
		case unknown:
			return oip.Error(codes.NotFound, oip.ReasonModelNotFound, "no such model")
		case full:
			return oip.Error(codes.ResourceExhausted, oip.ReasonQueueFull, "no room")
		}
		return nil
	}
	p.ready = func() (bool, error) { return standing(now.Load()) != loading, nil }
	p.meta = func() error {
		switch standing(now.Load()) {
		case unknown:
			return oip.Error(codes.Unavailable, oip.ReasonModelLoading, "it is being looked for")
		case full:
			return oip.Error(codes.ResourceExhausted, oip.ReasonQueueFull, "no room")
		}
		return nil
	}
}

// saysOf checks that an error is about that standing, and no other.
func saysOf(t *testing.T, when string, err error, want standing) {
	t.Helper()
	for _, kind := range []error{ErrUnreachable, ErrTimeout, ErrNotReady, ErrOverloaded} {
		if errors.Is(err, kind) != (kind == said[want]) {
			t.Errorf("%s: %v; want %q", when, err, said[want])
			return
		}
	}
	if want != refused && want != hangs && strings.Contains(errText(err), "out of reach") {
		t.Errorf("%s: the error says that a reachable server is out of reach: %v", when, err)
	}
}

// TestStandingAtOpening: after waiting in vain, the error says what happened last (A72).
func TestStandingAtOpening(t *testing.T) {
	for _, c := range []struct {
		name        string
		first, then standing
		want        standing
	}{
		{"never there", refused, refused, refused},
		{"connects for ever", hangs, hangs, hangs},
		{"never answers", mute, mute, mute},
		{"loads for ever", loading, loading, loading},
		{"never knows the model", unknown, unknown, unknown},
		{"full for ever", full, full, full},
		{"comes up, and then is mute", refused, mute, mute},
		{"comes up, and loads", refused, loading, loading},
		{"loads, and then is mute", loading, mute, mute},
		{"has no room, and then loads", full, loading, loading},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t)
				cfg, now := p.config(), &atomic.Int32{}
				now.Store(int32(c.first))
				stand(t, p, now, &cfg)
				time.AfterFunc(30*time.Second, func() { now.Store(int32(c.then)) })
				start := time.Now()
				err := openErr(t, t.Context(), cfg)
				saysOf(t, "at last", err, c.want)
				if d := time.Since(start); d != time.Minute || !strings.Contains(err.Error(), "waited 1m0s") {
					t.Errorf("after %v: %v", d, err)
				}
			})
		})
	}
	// A shorter wait is reported as such.
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		cfg, now := p.config(), &atomic.Int32{}
		now.Store(int32(mute))
		stand(t, p, now, &cfg)
		ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(3*time.Second))
		defer cancel()
		err := openErr(t, ctx, cfg)
		if text := err.Error(); strings.Contains(text, "waited 1m0s") {
			t.Error(err)
		}
	})
}

// TestStandingInMidRun: the reason for which calls are held is what happened last, and changes with
// it (A72). The calls are held in every case.
func TestStandingInMidRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t)
		cfg, now := p.config(), &atomic.Int32{}
		now.Store(int32(standsBy))
		stand(t, p, now, &cfg)
		r := newRecorder(t)
		r.open(cfg)
		for _, next := range []standing{refused, mute, loading, unknown, full, hangs, mute, refused, loading} {
			now.Store(int32(next))
			p.drop()
			time.Sleep(30 * time.Second)
			r.mu.Lock()
			why := r.suspended
			r.mu.Unlock()
			saysOf(t, "in mid-run", why, next)
			if v := async.VerdictOf(why); v.Class != async.Transport || !v.Hold || v.RetryAfter != 0 {
				t.Errorf("%v means %+v", why, v)
			}
		}
		now.Store(int32(standsBy))
		r.call(ramp(3)...)
		r.await()
		r.check()
	})
}
