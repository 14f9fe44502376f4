package sidecar

import (
	"context"
	"fmt"
	"time"

	"github.com/tensorferry/tensorferry/sidecar/endpoint"
)

// A connection can go silent: packets are lost from some moment on, and nobody says so. With calls
// open that looks as a slow model does. The two are told apart before the records' time is over,
// by a question to the server and by what this system knows of the other side's (A73).

const (
	// silencePatience is the longest silence before the server is asked.
	silencePatience = 2 * time.Second
	// silenceLimit is the longest wait for a sign of life after that, also for records without a
	// timeout.
	silenceLimit = 20 * time.Second
)

// silencePeriod is the silence after which the server is asked, and what is kept of a record's time
// for the call that follows a loss.
func silencePeriod(timeout time.Duration) time.Duration {
	if timeout <= 0 {
		return silencePatience
	}
	return max(min(timeout/4, silencePatience), time.Millisecond)
}

// listen watches over calls in progress until the channel is closed.
func (c *channel[IN, OUT]) listen() {
	period := silencePeriod(c.sub.Config.Timeout)
	for {
		open, ok := c.awaitOpen()
		if !ok {
			return
		}
		since := c.wire.heardAt()
		if since.IsZero() || c.link.down.Load() != nil { // the link sees to it
			sleep(c.ctx, period)
			continue
		}
		if open.After(since) {
			since = open
		}
		if left := period - time.Since(since); left > 0 {
			sleep(c.ctx, left)
			continue
		}
		if c.silent(period) {
			why := c.link.away(fmt.Sprintf("nothing has arrived since %v, the server was asked for a sign of life without an answer, "+
				"and its system acknowledges nothing", time.Since(since).Round(time.Millisecond)))
			c.link.lostSilently(since, why)
			c.wire.cut()
		}
		sleep(c.ctx, period)
	}
}

// awaitOpen waits until a request is in progress, and returns since when the oldest is. False says
// that the channel is closed. While requests come and go nobody is woken for it.
func (c *channel[IN, OUT]) awaitOpen() (since time.Time, ok bool) {
	for c.ctx.Err() == nil {
		c.mu.Lock()
		since = c.gather.oldest()
		c.deaf = since.IsZero()
		c.mu.Unlock()
		if !since.IsZero() {
			return since, true
		}
		select {
		case <-c.opened:
		case <-c.ctx.Done():
		}
	}
	return since, false
}

// silent asks the server for a sign of life, and reports whether the connection is lost. Anything
// that arrives is a sign.
func (c *channel[IN, OUT]) silent(period time.Duration) bool {
	asked := time.Now()
	ctx, cancel := context.WithCancel(c.ctx)
	answered := make(chan struct{})
	c.tasks.Go(func() {
		defer close(answered)
		_, _ = c.link.modelReady(ctx, c.cfg.Version)
	})
	defer func() {
		cancel()
		<-answered
	}()
	for {
		decide := c.decideBy(asked, period)
		timer := time.NewTimer(time.Until(decide))
		select {
		case <-answered: // or nobody can be asked, which the link sees
			timer.Stop()
			return false
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		}
		if c.wire.heardAt().After(asked) || c.link.down.Load() != nil {
			return false
		}
		if !time.Now().Before(c.decideBy(asked, period)) {
			return c.wire.hears(asked) != endpoint.Heard
		}
	}
}

// decideBy is when it has to be known whether the connection is lost: when the time that is left of
// a record's is what a further call may need. Records whose time is over earlier cannot be helped.
func (c *channel[IN, OUT]) decideBy(asked time.Time, period time.Duration) time.Time {
	least := asked.Add(period)
	at := asked.Add(silenceLimit)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.gather.flight {
		for i := range r.calls {
			if d := r.calls[i].Deadline; r.fates[i] == wanted && d.After(least) && d.Add(-period).Before(at) {
				at = d.Add(-period)
			}
		}
	}
	if at.Before(least) {
		return least
	}
	return at
}
