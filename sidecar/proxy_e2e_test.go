package sidecar_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

// behind returns a client's configuration for a sidecar behind a proxy.
func behind(p *sidecartest.Proxy, s *sidecartest.Server) sidecar.Config {
	return sidecar.Config{Endpoint: "proxy", Dialer: p.Dialer(), Model: s.Model()}
}

// A proxy's own answers in mid-run do not come from the server: records wait, and no record fails
// or is lost (A76). A refusal before the server has the call does not harm rows that must not be
// repeated.
func TestProxyInMidRun(t *testing.T) {
	for _, status := range []int{0, http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable} {
		for _, everything := range []bool{false, true} {
			for _, once := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d, everything %v, once %v", status, everything, once), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := sidecartest.Start(t, sidecartest.Script{Latency: time.Millisecond})
						p := sidecartest.StartProxy(t, s)
						cfg := behind(p, s)
						cfg.NonIdempotent = once
						method := "ModelInfer"
						if everything {
							method = ""
						}
						time.AfterFunc(time.Second, func() { p.Answer(method, status, 6) })
						n, failed := 0, 0
						op := async.Config{OnError: async.OnError{Transport: async.Drop}}
						for _, err := range async.Map(t.Context(), paced(400, 10*time.Millisecond), sidecar.NewAsyncFunction(cfg, doubling), op) {
							if err != nil {
								t.Fatalf("record %d: %v", n+failed, err)
							}
							n++
						}
						// A call that was cut, or lost behind the proxy,
						// may have run.
						mayFail := once && (status == 0 || status >= 500)
						if own := len(p.Answered()); own != 6 || n != 400 && !mayFail || n < 200 || mayFail && n == 400 {
							t.Errorf("%d results, %d answers of the proxy's own", n, own)
						}
						p.Close()
						s.Close()
					})
				})
			}
		}
	}
}

// At the start, a proxy's answers are errors at once, with a clear message: the endpoint may be
// wrong.
func TestProxyAtTheStart(t *testing.T) {
	for status, says := range map[int]string{
		0: "RST_STREAM", http.StatusBadRequest: "400 (Bad Request)", http.StatusUnauthorized: "401 (Unauthorized)",
		http.StatusForbidden: "403 (Forbidden)", http.StatusNotFound: "404 (Not Found)",
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sidecartest.Start(t, sidecartest.Script{})
				p := sidecartest.StartProxy(t, s)
				p.Answer("", status, 1000)
				start := time.Now()
				err := run(t, 1, behind(p, s), async.Config{})
				if !errors.Is(err, sidecar.ErrUnreachable) || !errors.Is(err, sidecar.ErrPermanent) || !strings.Contains(err.Error(), says) ||
					!strings.Contains(err.Error(), "answer does not come from the model server") || time.Since(start) > time.Second {
					t.Errorf("after %v: %v", time.Since(start), err)
				}
				p.Close()
				s.Close()
			})
		})
	}
	// A restarted job has had a working server at this endpoint, and waits for it again. 503
	// means that the server is not there yet, and is waited for.
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{})
		p := sidecartest.StartProxy(t, s)
		p.Answer("", http.StatusNotFound, 5)
		c, err := sidecar.NewAsyncFunction(behind(p, s), doubling).Open(t.Context(), async.Subtask{Attempt: 1}, &collector{outcome: map[uint64]error{}})
		if err != nil {
			t.Error(err)
		} else if err := c.Close(); err != nil {
			t.Error(err)
		}
		p.Close()
		s.Close()
	})
	// 503 says that it is not there yet, and is waited for.
	synctest.Test(t, func(t *testing.T) {
		s := sidecartest.Start(t, sidecartest.Script{})
		p := sidecartest.StartProxy(t, s)
		p.Answer("", http.StatusServiceUnavailable, 5)
		if err := run(t, 1, behind(p, s), async.Config{}); err != nil {
			t.Error(err)
		}
		p.Close()
		s.Close()
	})
}
