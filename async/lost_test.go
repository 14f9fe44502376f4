package async_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
)

// wentSilent is a loss that is noticed long after it has happened.
type wentSilent time.Duration

func (wentSilent) Error() string { return "the connection has gone silent" }
func (s wentSilent) Verdict() async.Verdict {
	return async.Verdict{Class: async.Transport, Hold: true, RetryAfter: time.Second, Lost: time.Duration(s)}
}

// A record gets back the time that passed while the other side could not answer, and never more
// than it had (A73).
func TestLostTimeIsGivenBack(t *testing.T) {
	for name, c := range map[string]struct{ lost, left time.Duration }{
		"none":              {0, 2 * time.Second},
		"some":              {5 * time.Second, 7 * time.Second},
		"all":               {8 * time.Second, 10 * time.Second},
		"more than it used": {time.Hour, 10 * time.Second},
		"less than none":    {-time.Hour, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, async.Ordered, async.Config{Timeout: 10 * time.Second}, nil)
				r.admit(1)
				r.step()
				time.Sleep(8 * time.Second)
				r.complete(1, async.Outputs[int]{}, wentSilent(c.lost))
				r.step()
				time.Sleep(time.Second)
				r.step()
				if left := time.Until(r.deadlines[1]); left != c.left {
					t.Errorf("it has %v left; want %v", left, c.left)
				}
				r.double(1)
				r.step()
			})
		})
	}
}
