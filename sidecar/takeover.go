package sidecar

import "github.com/tensorferry/tensorferry/internal/guard"

// progress records how far a worker has come with its request. A function of the user's may end the
// worker's goroutine (runtime.Goexit) at any call. Another goroutine then goes on from here. So the
// place in the window becomes free again, and every record gets its outcome.
type progress[IN any] struct {
	r        *group[IN]
	maxBytes int
	stage    stage
	id       string
	cancel   func()
	ended    bool  // the server has ended the request
	row      int   // the row that is decoded next
	exit     error // the error of the function that did not return
}

// stage says where a user's function is called.
type stage uint8

const (
	elsewhere stage = iota
	encoding        // by the codec
	sending         // the tracer, Observe
	decoding        // by the codec
)

// takeOver is called while the goroutine ends. It starts another one, unless no function of the
// user's is running: then the operator's host has ended the goroutine, and the operator has failed.
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

// observe calls Config.Observe with a request. If Observe fails, no record is to blame.
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

// failBroken fails the rows of a request because a function of the user's is broken. The rows are
// not to blame.
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
