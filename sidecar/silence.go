package sidecar

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/sidecar/oip"
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

// patience is with a line of which this system does not tell whether the other one hears it. One
// that is silent, and cut, may have been a slow model's: then the new one is as silent, and every
// cut would cost the calls that are open the time that they have had.
type patience struct {
	vain      atomic.Int64 // the silence after which a line was cut, until the next one proves well
	justified atomic.Int64 // the longest silence that was waited out, and came to an end
}

// A line that follows a vain cut counts as a slow model's for so many times the silence before it,
// and for no less than this. A dead one is not trusted for ever.
const (
	patienceFactor = 10
	leastPatience  = 5 * time.Minute
)

// over reports whether a line that is silent for so long may be cut.
func (p *patience) over(silence time.Duration) bool {
	if vain := time.Duration(p.vain.Load()); vain > 0 && silence < max(patienceFactor*vain, leastPatience) {
		return false
	}
	return silence > 2*time.Duration(p.justified.Load())
}

// cut says that a line was cut after such a silence.
func (p *patience) cut(silence time.Duration) { p.vain.Store(int64(silence)) }

// well says that a call was answered on a line of that age. If it has lived for longer than the
// silence of the one before it, that was dead.
func (p *patience) well(age time.Duration) {
	if age > time.Duration(p.vain.Load()) {
		p.vain.Store(0)
	}
}

// rewarded says that something arrived after a silence that was waited out.
func (p *patience) rewarded(silence time.Duration) {
	p.justified.Store(max(p.justified.Load(), int64(silence)))
}

// listen watches over calls in progress until the channel is closed.
func (c *channel[IN, OUT]) listen() {
	period := silencePeriod(c.sub.Config.Timeout)
	for c.awaitOpen() {
		if c.link.down.Load() != nil { // the link sees to it
			sleep(c.ctx, period)
			continue
		}
		c.judgeLeaving(period)
		l, silence := c.quietest()
		if silence < period { // or none is open on a line as yet
			sleep(c.ctx, period-silence)
			continue
		}
		if c.silent(l, period) {
			c.lose(l, "the server was asked for a sign of life without an answer")
		}
		sleep(c.ctx, period)
	}
}

// awaitOpen waits until a request is in progress. False says that the channel is closed. While
// requests come and go nobody is woken for it.
func (c *channel[IN, OUT]) awaitOpen() bool {
	for c.ctx.Err() == nil {
		c.mu.Lock()
		c.deaf = c.gather.oldest().IsZero()
		open := !c.deaf
		c.mu.Unlock()
		if open {
			return true
		}
		select {
		case <-c.opened:
		case <-c.ctx.Done():
		}
	}
	return false
}

// quietest is the line, of those that take calls, that has been silent for longest.
func (c *channel[IN, OUT]) quietest() (quietest *line, longest time.Duration) {
	for _, l := range c.wire.open() {
		if silence := l.silence(); silence > longest && !l.leaves() {
			quietest, longest = l, silence
		}
	}
	return quietest, longest
}

// judgeLeaving cuts lines that the server lets go and that are lost. Nobody can be asked over them,
// so only their systems can tell.
func (c *channel[IN, OUT]) judgeLeaving(period time.Duration) {
	for _, l := range c.wire.open() {
		silence := l.silence()
		if silence < period || !l.leaves() {
			continue
		}
		asked := time.Now().Add(period - silence) // if it could have been
		if !time.Now().Before(c.decideBy(asked, period)) && l.hears(time.Time{}) == endpoint.Unheard {
			c.lose(l, "the server has let the connection go")
		}
	}
}

// lose cuts a line that is lost.
func (c *channel[IN, OUT]) lose(l *line, what string) {
	silence, knows := l.silence(), "its system acknowledges nothing"
	if l.hears(time.Time{}) == endpoint.Unknown {
		knows = "this system does not tell whether its own acknowledges anything"
	}
	why := c.link.away(fmt.Sprintf("nothing has arrived for %v, %s, and %s", silence.Round(time.Millisecond), what, knows))
	c.link.lostSilently(time.Now().Add(-silence), why)
	l.cut()
}

// silent asks the server over a line for a sign of life, and reports whether the line is lost.
// Anything that arrives on it is a sign.
func (c *channel[IN, OUT]) silent(l *line, period time.Duration) bool {
	began := time.Now()
	asked, sent := began, false
	ctx, cancel := context.WithCancel(c.ctx)
	answered, over := make(chan struct{}), make(chan *line, 1)
	c.tasks.Go(func() {
		defer close(answered)
		c.link.question(ctx, c.cfg.Version, over)
	})
	defer func() {
		cancel()
		<-answered
	}()
	for {
		timer := time.NewTimer(min(time.Until(c.decideBy(asked, period)), period))
		select {
		case <-answered: // or nobody can be asked, which the link sees
			timer.Stop()
			return false
		case <-ctx.Done():
			timer.Stop()
			return false
		case on := <-over:
			timer.Stop()
			asked, sent = time.Now(), on == l
		case <-timer.C:
		}
		if c.judgeLeaving(period); l.speaks(began) || c.link.down.Load() != nil {
			return false
		}
		if !time.Now().Before(c.decideBy(asked, period)) {
			return c.isLost(l, asked, sent)
		}
	}
}

// isLost reports whether a line is lost on which nothing has arrived since the server was asked;
// sent that the question has left. A question that waits for room among the calls on the line, of
// which a server may take no more, tells nothing.
func (c *channel[IN, OUT]) isLost(l *line, asked time.Time, sent bool) bool {
	switch l.hears(asked) {
	case endpoint.Heard:
		return false
	case endpoint.Unheard:
		return true
	}
	silence := l.silence()
	switch {
	case !sent || silence == 0:
		return false
	case !c.wire.patience.over(silence):
		l.doubt()
		return false
	}
	c.wire.patience.cut(silence)
	return true
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

// question asks whether the model takes requests, for no more than a sign of life. When it has a
// place on a line it sends it to over, and returns when it is answered.
func (l *link) question(ctx context.Context, version string, over chan<- *line) {
	stream, err := l.conn.NewStream(ctx, new(grpc.StreamDesc), oip.GRPCInferenceService_ModelReady_FullMethodName)
	if err != nil {
		return
	}
	on := (*line)(nil)
	if p, ok := peer.FromContext(stream.Context()); ok {
		if a, ok := p.Addr.(lineAddr); ok {
			on = a.line
		}
	}
	over <- on
	if stream.SendMsg(&oip.ModelReadyRequest{Name: l.name.model, Version: version}) == nil {
		_ = stream.RecvMsg(new(oip.ModelReadyResponse)) // an error is an answer too
	}
}
