package sidecar

import "github.com/tensorferry/tensorferry/internal/guard"

// progress is how far a worker has come with its request. A function of the user's may end the
// worker's goroutine (runtime.Goexit) wherever it is called; another goroutine then goes on from
// here, so that the place in the window is free again and every record has its outcome.
type progress[IN any] struct {
	r        *group[IN]
	maxBytes int
	stage    stage
	id       string
	cancel   func()
	ended    bool  // the server has ended the request
	row      int   // that is decoded next
	exit     error // of the function that has not returned
}

// stage is where a user's function is called.
type stage uint8

const (
	elsewhere stage = iota
	encoding        // by the codec
	sending         // the tracer, Observe
	decoding        // by the codec
)

// takeOver is called while the goroutine ends. An operator whose own host has ended it has failed,
// and needs no other.
func (w *worker[IN, OUT]) takeOver() {
	var rest func() bool
	switch w.at.stage {
	case encoding:
		w.at.exit = nil
		rest = w.dispatch
	case sending:
		why := w.at.exit
		if why == nil {
			why = guard.Exited("the tracer")
			w.c.broke(why)
		}
		rest = func() bool { return w.land(false, nil, why) }
	case decoding:
		rest = func() bool {
			w.badAnswer(w.at.r)
			w.decode(w.at.r)
			w.release(w.at.maxBytes, w.at.ended)
			return true
		}
	default:
		return
	}
	w.c.tasks.Go(func() { w.goOn(rest) })
}

// observe tells Config.Observe of a request. That it fails is no record's fault.
func (w *worker[IN, OUT]) observe(r Request) (err error) {
	const where = "Config.Observe"
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			err = guard.Caught(where, v)
		} else {
			err = guard.Exited(where)
		}
		w.at.exit = err
		w.c.broke(err)
	}()
	w.c.cfg.Observe(r)
	returned = true
	return nil
}

// failBroken completes the rows of a request with the failure of a function that no row is to blame
// for.
func (w *worker[IN, OUT]) failBroken(r *group[IN], why error) {
	w.c.leave(r, func() {
		for i := range r.calls {
			if r.fates[i] == wanted {
				w.fail(r.calls[i].ID, why)
			}
		}
	})
	w.report()
	w.c.recycle(r)
}
