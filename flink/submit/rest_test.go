package submit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// flink plays Flink's REST interface: answers by method and path, in turn, the last one again and
// again.
type flink struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string][]string // "STATUS BODY"
	asked   []string
	then    func(what string)
}

func newFlink(t *testing.T, answers map[string][]string) (*flink, Cluster) {
	t.Helper()
	f := &flink{answers: answers}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f, Cluster{Address: strings.TrimPrefix(f.URL, "http://")}
}

func (f *flink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	what := r.Method + " " + r.URL.RequestURI()
	f.mu.Lock()
	f.asked = append(f.asked, strings.TrimSpace(what+" "+string(body)))
	all := f.answers[what]
	if len(all) > 1 {
		f.answers[what] = all[1:]
	}
	then := f.then
	f.mu.Unlock()
	if then != nil {
		then(what)
	}
	if len(all) == 0 {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errors":["Not found."]}`)
		return
	}
	code, text, _ := strings.Cut(all[0], " ")
	if code != "200" {
		w.WriteHeader(http.StatusInternalServerError)
	}
	fmt.Fprint(w, text)
}

func (f *flink) questions() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.asked, "; ")
}

func wantError(t *testing.T, err error, all ...string) {
	t.Helper()
	for _, want := range all {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v; want %q in it", err, want)
		}
	}
}

func TestFind(t *testing.T) {
	_, c := newFlink(t, map[string][]string{"GET /jobs/overview": {`200 {"jobs":[
		{"jid":"older","name":"digits","state":"RUNNING","start-time":9000,"end-time":-1},
		{"jid":"newer","name":"digits","state":"RESTARTING","start-time":1000,"end-time":-1},
		{"jid":"ended","name":"digits","state":"FINISHED","start-time":4000,"end-time":5000},
		{"jid":"another","name":"letters","state":"RUNNING","start-time":6000,"end-time":-1}]}`}})
	for _, w := range []struct {
		name   string
		before []string
		id     string
	}{
		// The times are those of a clock that was set back. They do not matter.
		{"digits", []string{"older"}, "newer"},
		{"digits", []string{"older", "newer"}, ""},
		{"digits", []string{"newer", "ended"}, "older"},
		{"letters", nil, "another"},
		{"nobody", nil, ""},
	} {
		if id, err := c.Find(t.Context(), w.name, w.before); err != nil || id != w.id {
			t.Errorf("%+v: found %q, error %v", w, id, err)
		}
	}
	id, err := c.Find(t.Context(), "digits", []string{"ended"})
	wantError(t, err, "several jobs \"digits\"", "older, newer", "web UI")
	if id != "" {
		t.Errorf("found %q of two", id)
	}
	if all, err := c.Jobs(t.Context(), "digits"); err != nil || !slices.Equal(all, []string{"older", "newer", "ended"}) {
		t.Errorf("%v, error %v", all, err)
	}
}

func TestCancel(t *testing.T) {
	f, c := newFlink(t, map[string][]string{"PATCH /jobs/j1?mode=cancel": {"200 {}"}})
	c.Address = f.URL + "/" // a URL will do
	if err := c.Cancel(t.Context(), "j1"); err != nil || f.questions() != "PATCH /jobs/j1?mode=cancel" {
		t.Errorf("%v; asked %s", err, f.questions())
	}
	wantError(t, c.Cancel(t.Context(), "j2"), "submit: Flink at "+c.Address, "404", "Not found.")
}

func TestStop(t *testing.T) {
	const stop, at = "POST /jobs/j1/stop", "GET /jobs/j1/savepoints/r1"
	const trigger, waits = `200 {"request-id":"r1"}`, `200 {"status":{"id":"IN_PROGRESS"},"operation":null}`
	t.Run("completed", func(t *testing.T) {
		f, c := newFlink(t, map[string][]string{stop: {trigger}, at: {waits, `200 {"status":{"id":"COMPLETED"},"operation":{"location":"file:/sp/1"}}`}})
		if path, err := c.Stop(t.Context(), "j1"); err != nil || path != "file:/sp/1" {
			t.Errorf("%q, error %v", path, err)
		}
		if want := stop + ` {"drain":false}; ` + at + "; " + at; f.questions() != want {
			t.Errorf("asked %s", f.questions())
		}
	})
	t.Run("failed", func(t *testing.T) {
		_, c := newFlink(t, map[string][]string{stop: {trigger}, at: {`200 {"status":{"id":"COMPLETED"},"operation":{"failure-cause":{"class":"x.E","stack-trace":"x.E: no folder\n\tat y"}}}`}})
		path, err := c.Stop(t.Context(), "j1")
		wantError(t, err, "submit: the savepoint of j1 failed: x.E: no folder")
		if path != "" || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q, error %v", path, err)
		}
	})
	t.Run("given up", func(t *testing.T) {
		f, c := newFlink(t, map[string][]string{stop: {trigger}, at: {waits}})
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		asked := make(chan struct{}, 100)
		f.then = func(what string) {
			if what == at {
				asked <- struct{}{}
			}
		}
		go func() {
			<-asked
			<-asked // the first has been answered
			cancel(cause)
		}()
		if _, err := c.Stop(ctx, "j1"); !errors.Is(err, cause) || !errors.Is(err, ErrStopUnknown) {
			t.Error(err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		_, c := newFlink(t, map[string][]string{stop: {`500 {"errors":["no savepoint folder"]}`}})
		_, err := c.Stop(t.Context(), "j1")
		wantError(t, err, "submit: Flink at "+c.Address, "POST /jobs/j1/stop", "500", "no savepoint folder")
	})
	t.Run("forgotten", func(t *testing.T) {
		f, c := newFlink(t, map[string][]string{stop: {trigger}})
		_, err := c.Stop(t.Context(), "j1")
		wantError(t, err, c.Address, "GET /jobs/j1/savepoints/r1", "404")
		if !errors.Is(err, ErrStopUnknown) || strings.Count(f.questions(), at) != 1 {
			t.Errorf("%v; asked %s", err, f.questions())
		}
	})
}

// answers plays Flink without a network, so that time is virtual: an error, a status, or the text
// of a good answer.
type answers func(method string) any

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	code, text := http.StatusOK, ""
	switch said := a(r.Method).(type) {
	case error:
		return nil, said
	case int:
		code = said
	case string:
		text = said
	}
	return &http.Response{StatusCode: code, Status: http.StatusText(code), Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
}

// A stop goes on at Flink, whatever becomes of the questions how far it is.
func TestStopGoesOn(t *testing.T) {
	const trigger, waits, taken = `{"request-id":"r1"}`, `{"status":{"id":"IN_PROGRESS"}}`, `{"status":{"id":"COMPLETED"},"operation":{"location":"file:/sp/1"}}`
	for name, c := range map[string]struct {
		then func(asked time.Duration) any // since the beginning
		path string
		over time.Duration // when it is at least
	}{
		"a failure and a refusal": {func(d time.Duration) any {
			switch {
			case d == 0:
				return errors.New("connection reset by peer")
			case d < time.Second:
				return http.StatusServiceUnavailable
			case d < 2*time.Second:
				return "<html>"
			}
			return taken
		}, "file:/sp/1", 2 * time.Second},
		"failures now and then": {func(d time.Duration) any {
			switch {
			case d >= 3*restTimeout:
				return taken
			case d/time.Second%10 == 0:
				return waits
			}
			return http.StatusBadGateway
		}, "file:/sp/1", 3 * restTimeout},
		"failures alone": {func(time.Duration) any { return errors.New("connection refused") }, "", restTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				cluster := Cluster{Address: "flink:8081", transport: answers(func(method string) any {
					if method == "POST" {
						return trigger
					}
					return c.then(time.Since(began))
				})}
				path, err := cluster.Stop(t.Context(), "j1")
				if path != c.path || (err != nil) != (path == "") || err != nil && !errors.Is(err, ErrStopUnknown) {
					t.Errorf("%q, error %v", path, err)
				}
				if d := time.Since(began); d < c.over || d > c.over+time.Second {
					t.Errorf("it took %v", d)
				}
			})
		})
	}
}

// Whether a stop was begun is known only if Flink says so.
func TestStopIsRefused(t *testing.T) {
	for _, c := range []struct {
		said    any
		unknown bool
	}{{http.StatusConflict, false}, {http.StatusInternalServerError, false}, {errors.New("connection reset by peer"), true}, {"<html>", true}} {
		cluster := Cluster{Address: "flink:8081", transport: answers(func(string) any { return c.said })}
		if _, err := cluster.Stop(t.Context(), "j1"); err == nil || errors.Is(err, ErrStopUnknown) != c.unknown {
			t.Errorf("%v: %v", c.said, err)
		}
	}
}

func TestNoFlink(t *testing.T) {
	_, c := newFlink(t, map[string][]string{"GET /jobs/overview": {"200 <html>hello</html>"}, "POST /jobs/j/stop": {"200 {}"}})
	_, err := c.Find(t.Context(), "digits", nil)
	wantError(t, err, "submit: Flink at "+c.Address, "/jobs/overview", "invalid character")
	_, err = c.Stop(t.Context(), "j")
	wantError(t, err, "submit: Flink at "+c.Address)

	c.Address = nobodyAt(t)
	wantError(t, c.Cancel(t.Context(), "j"), "submit: Flink at "+c.Address, "refused")
	wantError(t, Cluster{Address: "http://[bad"}.Cancel(t.Context(), "j"), "submit: Flink at http://[bad")
}
