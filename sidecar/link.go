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

// probeTimeout bounds a probe of a lost server, and the question whether the model is the same.
const probeTimeout = 5 * time.Second

// link watches the connection of a channel and tells the operator when calls make sense. It goes
// down at the first sign of a loss: the connection's state, or a call's failure. It stays down
// until the server has answered a probe, because a state alone may be out of date. Whatever the
// order of events, the link ends up if a server answers, and down if none does. So no held record
// waits for a Resume that never comes.
type link struct {
	conn    grpc.ClientConnInterface
	states  stateful // nil: the connection does not report its state
	backoff Backoff
	name    *peerName
	version string            // the version that requests name
	sig     *tensor.Signature // what the codec was bound to
	stated  *tensor.Signature // what the configuration says of the model; nil: nothing
	told    told              // what the server said about the model at Open
	log     *slog.Logger
	wire    *wire         // what is known beneath conn; nil: nothing
	known   bool          // this run has reached the server before
	silence time.Duration // how long a new connection may take after a GOAWAY

	// suspend and resume call the operator. stopped returns the channel's waiting calls to it.
	suspend func(error)
	resume  func()
	stopped func(*Error)
	// moved is called when calls continue on a new connection without a loss.
	moved func()

	// down is the reason why no call can be made; nil: calls can be made. It is written under
	// mu, and may be read without it.
	down atomic.Pointer[Error]

	mu         sync.Mutex
	silentFrom time.Time // since when the lost connection was silent; zero: it was not
	losses     uint64    // the number of losses that lost has reported
	kick       func()    // wakes watch
}

// stateful is the part of a *grpc.ClientConn that reports its state.
type stateful interface {
	GetState() connectivity.State
	WaitForStateChange(context.Context, connectivity.State) bool
	Connect()
}

// lost reports that the server is out of reach. When it returns, the operator has been suspended.
func (l *link) lost(why *Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.losses++
	if l.kick != nil {
		l.kick()
	}
	l.setDown(why)
}

// lostSilently reports the loss of a connection on which nothing has arrived since then.
func (l *link) lostSilently(since time.Time, why *Error) {
	l.mu.Lock()
	l.silentFrom = since
	l.mu.Unlock()
	l.lost(l.forSilence(why))
}

// forSilence returns the same loss with the time that a record has lost because of it.
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

// setDown suspends the operator, once for each loss, and again if a better reason is known. Under
// l.mu, so that the operator gets losses and returns in their order.
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

// goUp resumes the operator, unless a loss was reported since the probe began.
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

// end notes that no call will ever succeed again. Calls that were held are then made, and fail with
// the reason.
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

// watch runs until ctx ends, or until the model has changed for good.
func (l *link) watch(ctx context.Context) {
	conns, ups := pacer{backoff: l.backoff}, pacer{backoff: l.backoff}
	ups.begin()
	var pause time.Duration
	failed := 0     // failed probes in a row, on a ready connection
	moving := false // calls wait for a new connection after a GOAWAY
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
			// Calls wait for a connection that does not come.
			moving = false
			l.lostSilently(movedAt, l.away(fmt.Sprintf("the server let the connection go, and no new connection was made within %v", l.silence)))
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
			// Calls must not go without a pause to a server that answers probes but not
			// calls.
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
			// A server that accepts and closes at once must not be dialled without a
			// pause. grpc spaces dials that fail.
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

// pacer spaces tries that succeed and then fail at once. After a good time that lasted, or after
// the first short one, it adds no pause. Further short ones get longer and longer pauses.
type pacer struct {
	backoff Backoff
	at      time.Time // when the present good time began; zero: there is none
	short   int
}

// begin notes that a good time begins or goes on.
func (p *pacer) begin() {
	if p.at.IsZero() {
		p.at = time.Now()
	}
}

// end notes that the good time is over, and returns the pause before the next try.
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

// movesOn reports whether a new connection is being made because a healthy server let the old one
// go: at the end of its age, or before the server stops. Requests in progress finish on the old
// connection, and grpc holds new calls until the new one is there.
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

// wait returns when the state has changed, a loss was reported since seen, or within has passed.
// Without a positive within there is no time limit.
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

// probe asks whether the server answers again and has the model unchanged. A restarted server takes
// calls before it has loaded its models. Until then it describes them as it describes unknown
// models.
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

// notYet is the reason for holding calls to a connected server that failed the question about the
// model. While a server starts, it may say that it does not know the model, or fail to say anything
// about it.
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

// compare checks whether the model is still the one that the codec was bound to. What the server
// cannot say now, it may say at the next probe.
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

// changed returns the failure of a codec that was bound to another model; nil: the model is the
// same.
func (l *link) changed(sig *tensor.Signature) *Error {
	now, then := inOrder(sig), inOrder(l.sig)
	now.MaxBatch, then.MaxBatch = 0, 0 // splitting copes with a changed bound
	if now.String() == then.String() {
		return nil
	}
	return &Error{
		Code: FailedPrecondition, Model: l.name.model, Endpoint: l.name.endpoint, Class: async.Permanent, kind: ErrMismatch,
		Message: brief.Text(fmt.Sprintf("the server has another model by this name now (%s): %s; it was %s", differences(&then, &now), now.String(), then.String())),
		advice:  "start the job again to bind its codec to the new model",
	}
}

const unanswered = "the server did not say whether the model is still the same: "

// unanswered is the reason why a row is held if the question about the model got no answer in time.
func (l *link) unanswered() *Error {
	e := l.silent(probeTimeout)
	e.Message = unanswered + e.Message
	return e
}

// inOrder returns a signature with its tensors sorted by name. Requests and answers name each
// tensor, so the order in which a server lists them does not matter.
func inOrder(sig *tensor.Signature) tensor.Signature {
	s := *sig
	s.Inputs, s.Outputs = slices.Clone(s.Inputs), slices.Clone(s.Outputs)
	for _, specs := range [][]tensor.Spec{s.Inputs, s.Outputs} {
		slices.SortFunc(specs, func(a, b tensor.Spec) int { return strings.Compare(a.Name, b.Name) })
	}
	return s
}

// differences lists what has changed.
func differences(then, now *tensor.Signature) string {
	var out []string
	if then.Batched != now.Batched {
		out = append(out, map[bool]string{true: "it takes batches", false: "it does not take batches"}[now.Batched])
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

// verify asks whether the model is still the one that the codec was bound to. While it is, one
// question is enough. The answer counts for everything that the server said before the question.
func (l *link) verify(ctx context.Context) *Error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, said, err := l.describe(ctx, l.version)
	if err == nil && said.signature == l.told.signature {
		return nil
	}
	switch {
	case err == nil:
		err = l.compare(ctx) // the configuration's statement counts too
	case err.kind == ErrModelNotFound && err.Reason == "":
		err = err.held()
	}
	switch {
	case over(ctx):
		return l.unanswered()
	case err != nil && err.Class != async.Permanent:
		// A server that has no room, or is not ready, is still reachable: other calls may
		// succeed.
		e := l.notYet(err).held()
		e.Message, e.RetryAfter = unanswered+err.Message, err.RetryAfter
		return e
	}
	return err
}

// away returns the reason for which calls are held.
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
