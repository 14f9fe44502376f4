package sidecar

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/brief"
	"github.com/tensorferry/tensorferry/tensor"
)

// probeTimeout bounds the question whether a server that was lost answers again.
const probeTimeout = 5 * time.Second

// link watches the connection of a channel and tells the operator when calls make
// sense. It is down from the first sign of a loss, be it the connection's state or a
// call's failure, until the server has answered a probe: a state alone may be an old
// one. Whatever interleaves, the watcher ends in up with a server that answers, and in
// down without one, so no held record waits for a Resume that never comes.
type link struct {
	conn    grpc.ClientConnInterface
	states  stateful // nil: the connection does not tell
	backoff Backoff
	name    *peerName
	version string            // that requests ask for
	sig     *tensor.Signature // that the codec was bound to
	stated  *tensor.Signature // what the configuration says of the model; nil: nothing
	told    told              // what the server said of the model then
	log     *slog.Logger
	wire    *wire         // beneath conn; nil: nobody knows
	known   bool          // the server was good earlier in this run
	silence time.Duration // how long another connection may take where the server let one go

	// suspend and resume tell the operator; stopped gives back what waits in the channel.
	suspend func(error)
	resume  func()
	stopped func(*Error)
	// moved says that calls go on over another connection, without a loss.
	moved func()

	// down is why no call can be made; nil: calls can be made. It is written under mu
	// and read by anyone.
	down atomic.Pointer[Error]

	mu         sync.Mutex
	silentFrom time.Time // since when the connection that is lost was silent; zero: it was not
	losses     uint64    // reported by lost
	kick       func()    // wakes the watcher
}

// stateful is what a *grpc.ClientConn can tell of its connection.
type stateful interface {
	GetState() connectivity.State
	WaitForStateChange(context.Context, connectivity.State) bool
	Connect()
}

// lost is a call's report that the server is out of reach. When it returns the
// operator has been told.
func (l *link) lost(why *Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.losses++
	if l.kick != nil {
		l.kick()
	}
	l.setDown(why)
}

// lostSilently is lost for a connection on which nothing has arrived since then.
func (l *link) lostSilently(since time.Time, why *Error) {
	l.mu.Lock()
	l.silentFrom = since
	l.mu.Unlock()
	l.lost(l.forSilence(why))
}

// forSilence is the same loss with the time that a record has lost by it.
func (l *link) forSilence(why *Error) *Error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.silentFrom.IsZero() {
		return why
	}
	e := *why
	e.lost = time.Since(l.silentFrom)
	return &e
}

// setDown tells the operator, once a loss, and again if a better reason is known. Under l.mu,
// so that the operator hears of losses and returns in their order.
func (l *link) setDown(why *Error) {
	before := l.down.Load()
	if before != nil && (before.Message == why.Message || !before.hold) {
		return
	}
	l.down.Store(why)
	l.suspend(why)
	if before == nil {
		reason := why.Message
		if words, _ := l.wire.letGo(); words != "" && !strings.Contains(reason, words) {
			reason += "; " + words
		}
		l.log.Warn("sidecar: connection lost; calls are held", "endpoint", l.name.endpoint, "reason", reason)
		l.stopped(why)
	}
}

func (l *link) goDown(why *Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.setDown(why)
}

// goUp tells the operator, unless a loss was reported since the probe began.
func (l *link) goUp(seen uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if why := l.down.Load(); l.losses != seen || why != nil && !why.hold {
		return false
	}
	l.down.Store(nil)
	l.silentFrom = time.Time{}
	l.log.Info("sidecar: connected again", "endpoint", l.name.endpoint)
	l.resume()
	return true
}

// end says that no call will ever succeed again. Those that were held are made, and
// fail with the reason.
func (l *link) end(why *Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if before := l.down.Load(); before != nil && !before.hold {
		return
	}
	l.down.Store(why)
	l.log.Error("sidecar: the model cannot be used any more", "endpoint", l.name.endpoint, "reason", why.Message)
	l.resume()
	l.stopped(why)
	if l.kick != nil {
		l.kick()
	}
}

// watch runs until ctx ends, or the model has become another.
func (l *link) watch(ctx context.Context) {
	conns, ups := pacer{backoff: l.backoff}, pacer{backoff: l.backoff}
	ups.begin()
	var pause time.Duration
	failed := 0     // probes in a row, on a connection that says it is ready
	moving := false // from a connection that the server has let go
	var movedAt time.Time
	for wasDown := false; ctx.Err() == nil; {
		l.mu.Lock()
		seen, why := l.losses, l.down.Load()
		l.mu.Unlock()
		if why != nil && !why.hold {
			return
		}
		down := why != nil
		if down && !wasDown {
			pause = ups.end()
		}
		wasDown = down
		state := l.state()
		if moving && !down && state != connectivity.Ready && time.Since(movedAt) >= l.silence {
			// Calls wait for a connection that nobody answers.
			moving = false
			l.lostSilently(movedAt, l.away(fmt.Sprintf("the server let the connection go, and there is no other after %v", l.silence)))
			continue
		}
		switch state {
		case connectivity.Ready:
			conns.begin()
			if moving && !down {
				l.moved()
			}
			moving = false
			if !down {
				break
			}
			// A server that answers probes and not calls must not be called without pause.
			sleep(ctx, pause)
			err := l.probe(ctx)
			if err != nil && !err.hold && ctx.Err() == nil {
				l.end(err)
				return
			}
			if err != nil {
				l.goDown(err)
				pause = l.backoff.delay(failed)
				failed++
				continue
			}
			pause, failed = 0, 0
			if l.goUp(seen) {
				ups.begin()
				wasDown = false
			}
		case connectivity.Idle:
			if !down && l.movesOn() {
				if !moving {
					moving, movedAt = true, time.Now()
				}
				conns.at = time.Time{}
				l.states.Connect()
				break
			}
			if !down {
				l.goDown(l.away("the connection was closed"))
			}
			// Nor may one that accepts and closes at once be dialled without pause. Dials that
			// fail are spaced by grpc.
			sleep(ctx, conns.end())
			l.states.Connect()
		case connectivity.Shutdown:
			l.goDown(l.away("the connection was shut down"))
		case connectivity.TransientFailure:
			moving = false
			// A call on a failed connection fails at once, with the reason.
			if err := l.probe(ctx); err != nil && err.hold && ctx.Err() == nil {
				l.goDown(err)
			}
		default:
			if !down && l.movesOn() {
				if !moving {
					moving, movedAt = true, time.Now()
				}
				conns.at = time.Time{}
				break
			}
			if !down {
				l.goDown(l.away("the connection is being made again"))
			}
		}
		var within time.Duration
		if moving {
			within = l.silence - time.Since(movedAt)
		}
		l.wait(ctx, state, seen, within)
	}
}

// pacer spaces tries that succeed and come to nothing at once. A good time that lasted, or
// the first that did not, is followed by no pause, further short ones by longer and longer ones.
type pacer struct {
	backoff Backoff
	at      time.Time // when the present good time began; zero: there is none
	short   int
}

// begin says that a good time goes on.
func (p *pacer) begin() {
	if p.at.IsZero() {
		p.at = time.Now()
	}
}

// end says that it is over, and returns the pause before the next try.
func (p *pacer) end() time.Duration {
	if p.at.IsZero() {
		return 0
	}
	if p.short++; time.Since(p.at) >= p.backoff.Max {
		p.short = 0
	}
	p.at = time.Time{}
	if p.short < 2 {
		return 0
	}
	return p.backoff.delay(p.short - 2)
}

// movesOn reports whether the connection is being made anew because the server lets the one before
// go as one does that is well: at the end of its age, or before it stops. What is in progress there
// goes on, and new calls wait for the new connection with grpc.
func (l *link) movesOn() bool {
	words, gracefully := l.wire.letGo()
	if gracefully {
		l.log.Debug("sidecar: calls go on over a new connection", "endpoint", l.name.endpoint, "reason", words)
	}
	return gracefully
}

func (l *link) state() connectivity.State {
	if l.states == nil {
		return connectivity.Ready
	}
	return l.states.GetState()
}

// wait returns when the state is another, a loss was reported since seen, or so much time has
// passed; 0: any.
func (l *link) wait(ctx context.Context, state connectivity.State, seen uint64, within time.Duration) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if within > 0 {
		defer time.AfterFunc(within, cancel).Stop()
	}
	l.mu.Lock()
	if l.kick = cancel; l.losses != seen {
		cancel()
	}
	l.mu.Unlock()
	if l.states != nil {
		l.states.WaitForStateChange(ctx, state)
	} else {
		<-ctx.Done()
	}
}

// probe asks whether the server answers again and has the model as it was. A server
// that was started again takes calls before it has loaded its models, and says of them
// in the meantime what it says of unknown ones.
func (l *link) probe(ctx context.Context) *Error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	ready, err := l.modelReady(ctx, l.version)
	switch {
	case err == nil && ready:
		err = l.compare(ctx)
	case err == nil:
		err = l.notReady()
	default:
		err = l.notYet(err)
	}
	if err != nil && over(ctx) {
		return l.silent(probeTimeout)
	}
	return err
}

// notYet is why calls wait for a server that is connected, and answers so when it is asked for
// the model. What it says of a model that it does not know, and of one that it cannot tell of,
// may pass while it starts.
func (l *link) notYet(err *Error) *Error {
	if err.kind == ErrUnreachable {
		return err
	}
	e := l.away("connected, but the model is not there yet: " + err.Message)
	e.Code, e.Reason, e.advice = err.Code, err.Reason, ""
	switch err.kind {
	case ErrOverloaded, ErrTimeout:
		e.kind = err.kind
	default:
		e.kind = ErrNotReady
	}
	return e
}

// compare looks whether the model is still the one that the codec was bound to. What
// the server does not tell now it may tell at the next probe.
func (l *link) compare(ctx context.Context) *Error {
	sig, _, err := l.askModel(ctx, l.version)
	switch {
	case err != nil && (err.hold || err.Class != async.Permanent):
		return l.notYet(err)
	case err != nil:
		return err
	}
	return l.changed(&sig)
}

// changed is the failure of a codec that was bound to another model; nil: it is the same.
func (l *link) changed(sig *tensor.Signature) *Error {
	now, then := inOrder(sig), inOrder(l.sig)
	now.MaxBatch, then.MaxBatch = 0, 0 // a bound that changed is met by splitting
	if now.String() == then.String() {
		return nil
	}
	return &Error{
		Code: FailedPrecondition, Model: l.name.model, Endpoint: l.name.endpoint, Class: async.Permanent, kind: ErrMismatch,
		Message: brief.Text(fmt.Sprintf("the server has another model by this name now (%s): %s; it was %s", differences(&then, &now), now.String(), then.String())),
		advice:  "start the job again, which binds its codec to the new one",
	}
}

const unanswered = "it was asked whether the model is still the same, without an answer: "

// unanswered is why a row waits of which it could not be told in time whose fault it is.
func (l *link) unanswered() *Error {
	e := l.silent(probeTimeout)
	e.Message = unanswered + e.Message
	return e
}

// inOrder is a signature with its tensors in the order of their names. Requests and answers name
// each, so that the order in which a server lists them means nothing.
func inOrder(sig *tensor.Signature) tensor.Signature {
	s := *sig
	s.Inputs, s.Outputs = slices.Clone(s.Inputs), slices.Clone(s.Outputs)
	for _, specs := range [][]tensor.Spec{s.Inputs, s.Outputs} {
		slices.SortFunc(specs, func(a, b tensor.Spec) int { return strings.Compare(a.Name, b.Name) })
	}
	return s
}

// differences lists what is not as it was.
func differences(then, now *tensor.Signature) string {
	var out []string
	if then.Batched != now.Batched {
		out = append(out, map[bool]string{true: "it takes batches", false: "it takes no batches"}[now.Batched])
	}
	list := func(kind string, then, now []tensor.Spec) {
		find := func(specs []tensor.Spec, name string) int {
			return slices.IndexFunc(specs, func(s tensor.Spec) bool { return s.Name == name })
		}
		for _, s := range then {
			if i := find(now, s.Name); i < 0 {
				out = append(out, fmt.Sprintf("%s %s is gone", kind, s))
			} else if was := s.String(); now[i].String() != was {
				out = append(out, fmt.Sprintf("%s %s is %s", kind, was, now[i]))
			}
		}
		for _, s := range now {
			if find(then, s.Name) < 0 {
				out = append(out, fmt.Sprintf("%s %s is new", kind, s))
			}
		}
	}
	list("input", then.Inputs, now.Inputs)
	list("output", then.Outputs, now.Outputs)
	return strings.Join(out, ", ")
}

// verify asks whether the model is still the one that the codec was bound to, with one question as
// long as it is. The answer counts for everything that the server said before it was asked.
func (l *link) verify(ctx context.Context) *Error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, said, err := l.describe(ctx, l.version)
	if err == nil && said.signature == l.told.signature {
		return nil
	}
	switch {
	case err == nil:
		err = l.compare(ctx) // what the configuration says of it counts too
	case err.kind == ErrModelNotFound && err.Reason == "":
		err = err.held()
	}
	switch {
	case over(ctx):
		return l.unanswered()
	case err != nil && err.Class != async.Permanent:
		// Who has no room, or is not ready, is there: others may be served.
		e := l.notYet(err).held()
		e.Message, e.RetryAfter = unanswered+err.Message, err.RetryAfter
		return e
	}
	return err
}

// away is the reason for which calls are held.
func (l *link) away(what string) *Error {
	return &Error{
		Code: Unavailable, Message: what, Model: l.name.model, Endpoint: l.name.endpoint,
		Class: async.Transport, kind: ErrUnreachable, hold: true, advice: helpReach,
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
