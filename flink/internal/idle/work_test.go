package idle

import (
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

func TestWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		w := Since(now)
		if w.Abandoned(now) || !w.Abandoned(now.Add(1)) {
			t.Error("its time is not its own")
		}
		fault := errors.New("a fault")
		err := w.Do(func() error {
			if time.Sleep(time.Second); w.Abandoned(now.Add(time.Hour)) {
				t.Error("it is abandoned, and somebody is at work on it")
			}
			return fault
		})
		if err != fault {
			t.Errorf("the error is %v", err)
		}
		if w.Abandoned(now.Add(time.Second)) || !w.Abandoned(now.Add(time.Second+1)) {
			t.Error("it is not the end of the work that counts")
		}
		working, ended := make(chan struct{}), false
		go w.Do(func() error {
			close(working)
			for range 1000 { // virtual time does not go on while somebody waits for a lock
				runtime.Gosched()
			}
			if ended {
				t.Error("it is closed under somebody who is at work on it")
			}
			return nil
		})
		<-working
		if err := w.End(func() error { ended = true; return fault }); err != fault || !ended {
			t.Errorf("the error of its end is %v, ended: %v", err, ended)
		}
		if err := w.Do(func() error { return nil }); err != ErrAbandoned {
			t.Errorf("work on what is closed: %v", err)
		}
	})
}
