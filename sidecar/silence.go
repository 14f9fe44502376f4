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

// A connection can go silent: from some moment on packets are lost, and no error is reported. With
// calls open, that looks like a slow model. Two things tell them apart before the records' time is
// over: a question to the server, and what this system knows of the other side's (A73).

const (
	// silencePatience is the longest silence before the server is asked.
	silencePatience = 2 * time.Second
	// silenceLimit is the longest wait for a sign of life after that, also for records without a
	// timeout.
	silenceLimit = 20 * time.Second
)

// silencePeriod is the silence after which the server is asked. As much of a record's time is kept
// for the call that follows a loss.
func silencePeriod(timeout time.Duration) time.Duration {
	if timeout <= 0 {
		return silencePatience
	}
	return max(min(timeout/4, silencePatience), time.Millisecond)
}

// patience limits cuts of lines whose acknowledgements this system does not report. A silent line
// that was cut may have belonged to a slow model. Then the new line is just as silent, and each cut
// would cost the open calls the time that they have waited.
type patience struct {
	vain      atomic.Int64 // the silence of the line that was cut last; 0: it was dead
	justified atomic.Int64 // the longest silence that was waited out and then ended
}

// A line that follows a vain cut is taken for a slow model's for patienceFactor times the silence
// before that cut, and for at least leastPatience. So a dead line is not trusted for ever.
const (
	patienceFactor = 10
	leastPatience  = 5 * time.Minute
)

// over reports whether a line may be cut after such a silence.
func (p *patience) over(silence time.Duration) bool {
	if vain := time.Duration(p.vain.Load()); vain > 0 && silence < max(patienceFactor*vain, leastPatience) {
		return false
	}
	return silence > 2*time.Duration(p.justified.Load())
}

// cut notes that a line was cut after such a silence.
func (p *patience) cut(silence time.Duration) { p.vain.Store(int64(silence)) }

// well notes that a call was answered on a line of that age. If the line has lived longer than the
// silence of the line before it, that one was dead.
func (p *patience) well(age time.Duration) {
	if age > time.Duration(p.vain.Load()) {
		p.vain.Store(0)
	}
}

// rewarded notes that data arrived after a silence that was waited out.
func (p *patience) rewarded(silence time.Duration) {
	p.justified.Store(max(p.justified.Load(), int64(silence)))
}

// listen watches calls in progress for silence, until the channel is closed.
func (c *channel[IN, OUT]) listen() {
	period := silencePeriod(c.sub.Config.Timeout)
	for c.awaitOpen() {
		if c.link.down.Load() != nil { // the link handles the loss
			sleep(c.ctx, period)
			continue
		}
		c.judgeLeaving(period)
		l, silence := c.quietest()
		if silence < period { // or no call is open on a line yet
			sleep(c.ctx, period-silence)
			continue
		}
		if c.silent(l, period) {
			c.lose(l, "the server did not answer a question")
		}
		sleep(c.ctx, period)
	}
}

// awaitOpen waits until a request is in progress. False: the channel is closed. While requests come
// and go, it does not need to be woken.
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

// quietest returns the line that has been silent for longest, among those that take new calls.
func (c *channel[IN, OUT]) quietest() (quietest *line, longest time.Duration) {
	for _, l := range c.wire.open() {
		if silence := l.silence(); silence > longest && !l.leaves() {
			quietest, longest = l, silence
		}
	}
	return quietest, longest
}

// judgeLeaving cuts lines that the server has let go and that are lost. No question can be sent on
// such a line, so only what the system knows can tell.
func (c *channel[IN, OUT]) judgeLeaving(period time.Duration) {
	for _, l := range c.wire.open() {
		silence := l.silence()
		if silence < period || !l.leaves() {
			continue
		}
		asked := time.Now().Add(period - silence) // when it would have been asked
		if !time.Now().Before(c.decideBy(asked, period)) && l.hears(time.Time{}) == endpoint.Unheard {
			c.lose(l, "the server let the connection go")
		}
	}
}

// lose cuts a line that is lost, and reports the loss.
func (c *channel[IN, OUT]) lose(l *line, what string) {
	silence, knows := l.silence(), "the server's system acknowledges nothing"
	if l.hears(time.Time{}) == endpoint.Unknown {
		knows = "this system cannot tell whether the server's system acknowledges anything"
	}
	why := c.link.away(fmt.Sprintf("nothing has arrived for %v, %s, and %s", silence.Round(time.Millisecond), what, knows))
	c.link.lostSilently(time.Now().Add(-silence), why)
	l.cut()
}

// silent asks the server for a sign of life, and reports whether the line is lost. Anything that
// arrives on the line is a sign.
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
		case <-answered: // or the question failed, which the link handles
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

// isLost reports whether a line is lost on which nothing has arrived since the server was asked.
// sent says that the question was sent on this line. A question that waits because the server takes
// no more calls on the line proves nothing.
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

// decideBy returns when to decide whether the connection is lost: when a record has only as much
// time left as a further call may need. Records whose time is over earlier cannot be helped.
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

// question asks whether the model takes requests, only to get a sign of life. It sends the line
// that carries the question to over, and returns when the question is answered.
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
