package server_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/oip"
	"github.com/tensorferry/tensorferry/sidecar/server"
	"github.com/tensorferry/tensorferry/tensor"
)

// scripted is a mock model that notes whether it is run after it was closed.
type scripted struct {
	*mock.Model
	late *atomic.Int64
	open *atomic.Int64
}

func (m *scripted) Run(ctx context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
	if m.Closed() {
		m.late.Add(1)
	}
	out, err := m.Model.Run(ctx, in)
	if m.Closed() {
		m.late.Add(1)
	}
	return out, err
}

func (m *scripted) Close() error { m.open.Add(-1); return m.Model.Close() }

// shelf is a repository in memory: one model, m, whose loads the test decides.
type shelf struct {
	mu         sync.Mutex
	next       mock.Config
	err        error
	loads      int
	late, open atomic.Int64
}

func (s *shelf) load(ctx context.Context) (backend.Model, error) {
	s.mu.Lock()
	cfg, err := s.next, s.err
	s.loads++
	s.mu.Unlock()
	m, merr := mock.Load(ctx, cfg)
	if err = errors.Join(err, merr); err != nil {
		return nil, err
	}
	s.open.Add(1)
	return &scripted{m, &s.late, &s.open}, nil
}

func (s *shelf) set(cfg mock.Config, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next, s.err = cfg, err
}

// start serves the shelf's model m, in the given versions.
func (s *shelf) start(t *testing.T, cfg server.Config, versions ...string) *rig {
	t.Helper()
	for _, v := range versions {
		cfg.Models = append(cfg.Models, server.Model{Name: "m", Version: v, Location: "shelf", Load: s.load})
	}
	return start(t, cfg)
}

func start(t *testing.T, cfg server.Config) *rig {
	t.Helper()
	cfg.Explicit = true
	srv, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, srv: srv, lis: bufconn.Listen(1 << 20)}
	if err := srv.Start(r.lis); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	if err := srv.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

func load(ctx context.Context, c oip.GRPCInferenceServiceClient, name string) error {
	_, err := c.RepositoryModelLoad(ctx, &oip.RepositoryModelLoadRequest{ModelName: name})
	return err
}

func unload(ctx context.Context, c oip.GRPCInferenceServiceClient, name string) error {
	_, err := c.RepositoryModelUnload(ctx, &oip.RepositoryModelUnloadRequest{ModelName: name,
		Parameters: map[string]*oip.ModelRepositoryParameter{"unload_dependents": {ParameterChoice: &oip.ModelRepositoryParameter_BoolParam{}}}})
	return err
}

// index returns the repository's index, with a line for each version.
func index(t *testing.T, c oip.GRPCInferenceServiceClient) string {
	t.Helper()
	resp, err := c.RepositoryIndex(t.Context(), &oip.RepositoryIndexRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, m := range resp.Models {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", m.Name, m.Version, m.State, m.Reason)))
	}
	return strings.Join(lines, "\n")
}

func wantReason(t *testing.T, what string, err error, code codes.Code, reason, says string) {
	t.Helper()
	if d := oip.Parse(err); d.Code != code || d.Reason != reason || !strings.Contains(d.Message, says) {
		t.Errorf("%s: %v (reason %q); want %v %s, saying %q", what, err, d.Reason, code, reason, says)
	}
}

// A repository without a model is logged, because it is most likely the wrong folder.
func TestEmptyRepository(t *testing.T) {
	for explicit, lines := range map[bool]int{false: 1, true: 0} {
		var log strings.Builder
		s, err := server.New(server.Config{Repository: t.TempDir(), Explicit: explicit, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(log.String(), "no model in the repository"); n != lines {
			t.Errorf("explicit %v: %s", explicit, log.String())
		}
		s.Close()
	}
}

func TestVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{}
		r := s.start(t, server.Config{}, "9", "beta", "10")
		c := r.caller()
		q := ask(1)
		resp, err := c.ModelInfer(t.Context(), q)
		doubled(t, resp, err, 1)
		if resp.GetModelVersion() != "10" {
			t.Errorf("answered by version %q; 10 is the greatest", resp.GetModelVersion())
		}
		for _, v := range []string{"9", "beta", "10"} {
			q.ModelVersion = v
			if resp, err := c.ModelInfer(t.Context(), q); err != nil || resp.ModelVersion != v {
				t.Errorf("version %s: %v, %v", v, resp, err)
			}
		}
		q.ModelVersion = "3"
		_, err = c.ModelInfer(t.Context(), q)
		wantReason(t, "version 3", err, codes.NotFound, oip.ReasonVersionMismatch, `versions "beta", "9", "10"`)
		meta, err := c.ModelMetadata(t.Context(), &oip.ModelMetadataRequest{Name: "m"})
		if err != nil || !slices.Equal(meta.Versions, []string{"beta", "9", "10"}) {
			t.Errorf("metadata %v, %v", meta, err)
		}
	})
}

// Callers go on while the model is loaded again and again, each time with another function. Each
// gets an answer, which comes from one function alone.
func TestReloadUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{next: mock.Config{Latency: 7 * time.Millisecond}}
		r := s.start(t, server.Config{WarmUp: []int{}}, "1")
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var answers, doubles atomic.Int64
		for k := range 4 {
			c := r.caller()
			wg.Go(func() {
				for i := 1; ctx.Err() == nil; i++ {
					vs := sequence(100*k+i, 1+i%5)
					resp, err := c.ModelInfer(context.Background(), ask(vs...))
					if err != nil {
						t.Errorf("a request was lost: %v", err)
						return
					}
					got := readFloats(resp.RawOutputContents[0])
					times := got[0] / vs[0]
					for j := range vs {
						if times != 1 && times != 2 || got[j] != times*vs[j] {
							t.Errorf("%v for %v: from two models, or none", got, vs)
						}
					}
					answers.Add(1)
					if times == 2 {
						doubles.Add(1)
					}
				}
			})
		}
		admin := r.caller()
		for i := range 20 {
			s.set(mock.Config{Function: []string{"echo", "double"}[i%2], Latency: time.Duration(3+i) * time.Millisecond, LoadTime: 20 * time.Millisecond}, nil)
			if err := load(t.Context(), admin, "m"); err != nil {
				t.Errorf("reload: %v", err)
			}
			// From now on the new model answers.
			resp, err := admin.ModelInfer(t.Context(), ask(3))
			if want := []float32{3, 6}[i%2]; err != nil || readFloats(resp.RawOutputContents[0])[0] != want {
				t.Errorf("after reload %d: %v, %v", i, resp, err)
			}
			time.Sleep(5 * time.Millisecond)
		}
		stop()
		wg.Wait()
		if n, d := answers.Load(), doubles.Load(); d == 0 || d == n || n < 100 {
			t.Errorf("%d answers, %d of them doubled: too few to show anything", n, d)
		}
		r.srv.Close()
		if s.late.Load() != 0 || s.open.Load() != 0 {
			t.Errorf("%d runs of a closed model, %d models left open", s.late.Load(), s.open.Load())
		}
	})
}

// An unload waits for requests that run or wait. Later requests are refused.
func TestUnload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{next: mock.Config{Latency: time.Second}}
		r := s.start(t, server.Config{MaxBatch: 1, WarmUp: []int{}}, "1")
		c := r.caller()
		var wg sync.WaitGroup
		for i := range 3 { // one runs, two wait
			wg.Go(func() {
				resp, err := c.ModelInfer(t.Context(), ask(float32(i)))
				doubled(t, resp, err, float32(i))
			})
		}
		synctest.Wait()
		began := time.Now()
		wg.Go(func() {
			if err := unload(t.Context(), c, "m"); err != nil {
				t.Error(err)
			}
			if d := time.Since(began); d != 3*time.Second {
				t.Errorf("the unload took %v; the requests that it waits for take 3 s", d)
			}
		})
		synctest.Wait()
		_, err := c.ModelInfer(t.Context(), ask(9))
		wantReason(t, "while it is unloaded", err, codes.NotFound, oip.ReasonModelNotFound, "unloaded")
		if got := index(t, c); got != "m 1 UNLOADING it finishes the requests that it has" {
			t.Errorf("index: %s", got)
		}
		wg.Wait()
		if got := index(t, c); got != "m 1 UNAVAILABLE unloaded" || s.open.Load() != 0 {
			t.Errorf("index: %s; %d models open", got, s.open.Load())
		}
		if ready, err := c.ModelReady(t.Context(), &oip.ModelReadyRequest{Name: "m"}); err != nil || ready.Ready || !r.srv.Ready() {
			t.Errorf("model ready %v, %v; server ready %v", ready, err, r.srv.Ready())
		}
		if err := unload(t.Context(), c, "m"); err != nil {
			t.Errorf("again: %v", err)
		}
		if err := load(t.Context(), c, "m"); err != nil {
			t.Fatal(err)
		}
		resp, err := c.ModelInfer(t.Context(), ask(4))
		doubled(t, resp, err, 4)
	})
}

func TestFailedReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{}
		r := s.start(t, server.Config{}, "1", "2")
		c := r.caller()
		for _, k := range []struct {
			what string
			cfg  mock.Config
			err  error
			says string
		}{
			{"loader", mock.Config{}, errors.New("no such layer"), "no such layer"},
			{"warm-up", mock.Config{Faults: []mock.Fault{{Kind: mock.Short}}}, nil, "warm-up"},
			{"panic", mock.Config{Faults: []mock.Fault{{Kind: mock.Panic}}}, nil, "panicked"},
			{"hang", mock.Config{Faults: []mock.Fault{{Kind: mock.Hang}}}, nil, "longer than 1m0s"},
		} {
			s.set(k.cfg, k.err)
			err := load(t.Context(), c, "m")
			wantReason(t, k.what, err, codes.FailedPrecondition, oip.ReasonModelLoadFailed, k.says)
			wantReason(t, k.what, err, codes.FailedPrecondition, oip.ReasonModelLoadFailed, `requests still go to versions "1", "2", loaded before`)
			resp, err := c.ModelInfer(t.Context(), ask(1))
			doubled(t, resp, err, 1)
			if got := index(t, c); !strings.Contains(got, "m 2 READY loading it again failed") || !strings.Contains(got, k.says) {
				t.Errorf("%s: index %s", k.what, got)
			}
			if n := s.open.Load(); n != 2 {
				t.Errorf("%s: %d models are open", k.what, n)
			}
		}
		s.set(mock.Config{}, nil)
		if err := load(t.Context(), c, "m"); err != nil || index(t, c) != "m 1 READY\nm 2 READY" {
			t.Errorf("%v: %s", err, index(t, c))
		}
	})
}

// The warm-up comes before any request, on every instance. Bad rows in it are not a failure.
func TestWarmUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, k := range []struct {
			name       string
			cfg        server.Config
			model      mock.Config
			runs, rows int64
		}{
			{"default", server.Config{MaxBatch: 8}, mock.Config{Instances: 2}, 4, 18},
			{"off", server.Config{WarmUp: []int{}}, mock.Config{}, 0, 0},
			{"chosen", server.Config{WarmUp: []int{4, 0, 1000}, MaxBatch: 16}, mock.Config{}, 2, 20},
			{"bytes", server.Config{QueueBytes: 12}, mock.Config{}, 2, 4},
			{"dynamic", server.Config{}, mock.Config{Inputs: []tensor.Spec{{Name: "x", DType: tensor.FP32, Row: tensor.Shape{-1}}}}, 0, 0},
			{"strings", server.Config{WarmUp: []int{3}}, mock.Config{Inputs: []tensor.Spec{{Name: "x", DType: tensor.Bytes, Row: tensor.Shape{2}}}}, 1, 3},
			{"strings that it refuses", server.Config{WarmUp: []int{3}}, mock.Config{Faults: []mock.Fault{{Kind: mock.Short}}, Inputs: []tensor.Spec{{Name: "x", DType: tensor.Bytes, Row: tensor.Shape{2}}}}, 1, 3},
			{"counted", server.Config{}, mock.Config{NoWarmUp: true}, 0, 0},
			{"unbatched", server.Config{}, mock.Config{Unbatched: true}, 1, 1},
			{"refused", server.Config{WarmUp: []int{1}}, mock.Config{Faults: []mock.Fault{{Kind: mock.BadRow, Row: new(float64)}}}, 1, 1},
		} {
			m, err := mock.New(k.model)
			if err != nil {
				t.Fatal(err)
			}
			k.cfg.Models = []server.Model{{Name: "m", Load: func(context.Context) (backend.Model, error) { return m, nil }}}
			r := start(t, k.cfg)
			if runs, rows := m.Runs(); runs != k.runs || rows != k.rows {
				t.Errorf("%s: %d runs of %d rows; want %d of %d", k.name, runs, rows, k.runs, k.rows)
			}
			r.srv.Close()
		}
	})
}

// If a caller goes away while its load waits, nothing changes. If it goes away later, the load goes
// on. A server that stops abandons the load.
func TestLoadAndItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{next: mock.Config{LoadTime: time.Second}}
		r := s.start(t, server.Config{WarmUp: []int{}}, "1")
		c := r.caller()
		s.set(mock.Config{Function: "echo", LoadTime: time.Second}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 3 { // one runs, two wait
			wg.Go(func() {
				if err := load(ctx, c, "m"); status.Code(err) != codes.Canceled {
					t.Errorf("a load whose caller went away: %v", err)
				}
			})
		}
		synctest.Wait()
		cancel()
		wg.Wait()
		time.Sleep(5 * time.Second)
		resp, err := c.ModelInfer(t.Context(), ask(3))
		if err != nil || readFloats(resp.RawOutputContents[0])[0] != 3 {
			t.Errorf("the load did not go on: %v, %v", resp, err)
		}
		if s.mu.Lock(); s.loads != 2 {
			t.Errorf("%d loads; those that waited were to be dropped", s.loads)
		}
		s.mu.Unlock()

		s.set(mock.Config{LoadTime: time.Hour}, nil)
		for range 2 {
			wg.Go(func() { wantReason(t, "load", load(t.Context(), c, "m"), codes.Unavailable, oip.ReasonDraining, "") })
		}
		synctest.Wait()
		if err := r.srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if s.open.Load() != 0 {
			t.Errorf("%d models are open", s.open.Load())
		}
	})
}

func TestRepositoryFolder(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	write := func(base string, names ...string) {
		for _, n := range names {
			if err := os.MkdirAll(filepath.Join(base, filepath.Dir(n)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(base, n), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(dir, "a/1/model.mock", "a/12/model.MOCK", "a/config.pbtxt", "a/007/model.mock", "a/x/model.mock", "odd?x=%3F/1/model.mock",
		"none/readme", "empty/1/weights.bin", "two/1/model.mock", "two/1/model.mock2", ".hidden/1/model.mock", "file")
	write(outside, "1/model.mock", "model.mock")
	for link, to := range map[string]string{"inside": "a", "out": outside, "outfile/1/model.mock": filepath.Join(outside, "model.mock")} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(link)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	loader := backend.LoaderFunc(func(_ context.Context, loc backend.Location) (backend.Model, error) {
		if _, err := os.Stat(loc.Path); err != nil {
			return nil, err
		}
		return mock.New(mock.Config{})
	})
	synctest.Test(t, func(t *testing.T) {
		cfg := server.Config{Repository: dir, Preload: []string{"a"}, Explicit: true,
			Backends: backend.Registry{Extensions: map[string]backend.Loader{".mock": loader, ".mock2": loader}}}
		r := start(t, cfg)
		c := r.caller()
		if got := index(t, c); got != "a 1 READY\na 12 READY\nempty\ninside\nnone\nodd?x=%3F\noutfile\ntwo" {
			t.Errorf("index:\n%s", got)
		}
		for _, name := range []string{"inside", "odd?x=%3F"} {
			if err := load(t.Context(), c, name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, k := range []struct {
			name, reason, says string
			code               codes.Code
		}{
			{"none", oip.ReasonModelLoadFailed, "has no version", codes.FailedPrecondition},
			{"empty", oip.ReasonModelLoadFailed, "empty/1 has 0 models", codes.FailedPrecondition},
			{"two", oip.ReasonModelLoadFailed, "has 2 models", codes.FailedPrecondition},
			{"outfile", oip.ReasonModelLoadFailed, "escapes", codes.FailedPrecondition},
			{"out", oip.ReasonModelNotFound, "", codes.NotFound},
			{"file", oip.ReasonModelNotFound, "", codes.NotFound},
			{"gone", oip.ReasonModelNotFound, "", codes.NotFound},
			{"", "", "empty", codes.InvalidArgument},
			{"..", "", "dot", codes.InvalidArgument},
			{"../" + filepath.Base(outside), "", "dot", codes.InvalidArgument},
			{"a/../a", "", "holds", codes.InvalidArgument},
			{outside, "", "holds", codes.InvalidArgument},
			{"a\x00", "", "printed", codes.InvalidArgument},
			{strings.Repeat("a", 256), "", "256 bytes", codes.InvalidArgument},
		} {
			err := load(t.Context(), c, k.name)
			wantReason(t, k.name, err, k.code, k.reason, k.says)
			if text := fmt.Sprint(err); !strings.Contains(k.name, outside) && (strings.Contains(text, dir) || strings.Contains(text, outside)) {
				t.Errorf("%s: the error shows a path: %v", k.name, err)
			}
		}
		if !r.srv.Ready() {
			t.Error("failed loads made the server unready")
		}
		if resp, err := c.RepositoryIndex(t.Context(), &oip.RepositoryIndexRequest{Ready: true}); err != nil || len(resp.Models) != 5 {
			t.Errorf("those that are ready: %v, %v", resp, err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // all models at the start, and no loads later
		srv, err := server.New(server.Config{Repository: dir, Backends: backend.Registry{Extensions: map[string]backend.Loader{".mock": loader}}})
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{t: t, srv: srv, lis: bufconn.Listen(1 << 20)}
		if err := srv.Start(r.lis); err != nil {
			t.Fatal(err)
		}
		defer srv.Close()
		if err := srv.WaitReady(t.Context()); err == nil || !strings.Contains(err.Error(), `model "none"`) {
			t.Errorf("WaitReady: %v", err)
		}
		c := r.caller()
		q := ask(1)
		q.ModelName = "a"
		resp, err := c.ModelInfer(t.Context(), q)
		doubled(t, resp, err, 1)
		for _, err := range []error{load(t.Context(), c, "a"), unload(t.Context(), c, "a")} {
			wantReason(t, "without control", err, codes.Unimplemented, oip.ReasonUnsupportedFeature, "explicit")
		}
	})
}

func TestRepositoryParameters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := (&shelf{}).start(t, server.Config{}, "1").caller()
		text := map[string]*oip.ModelRepositoryParameter{}
		for name, code := range map[string]codes.Code{"config": codes.Unimplemented, "file:1/model.onnx": codes.Unimplemented, "else": codes.InvalidArgument} {
			clear(text)
			text[name] = &oip.ModelRepositoryParameter{ParameterChoice: &oip.ModelRepositoryParameter_StringParam{StringParam: "{}"}}
			_, err := c.RepositoryModelLoad(t.Context(), &oip.RepositoryModelLoadRequest{ModelName: "m", Parameters: text})
			if status.Code(err) != code || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := c.RepositoryModelUnload(t.Context(), &oip.RepositoryModelUnloadRequest{ModelName: "m", Parameters: text}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("unload: %v", err)
		}
		if _, err := c.RepositoryIndex(t.Context(), &oip.RepositoryIndexRequest{RepositoryName: "x"}); status.Code(err) != codes.Unimplemented {
			t.Errorf("another repository: %v", err)
		}
		if got := index(t, c); got != "m 1 READY" {
			t.Errorf("index: %s", got)
		}
	})
}

// Loads, failures and unloads at random. After each the test checks what answers.
func TestRandomLife(t *testing.T) {
	for range 20 {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		synctest.Test(t, func(t *testing.T) {
			s := &shelf{}
			r := s.start(t, server.Config{WarmUp: []int{}}, "1")
			c, busy := r.caller(), r.caller()
			ctx, stop := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					for ctx.Err() == nil {
						_, err := busy.ModelInfer(context.Background(), ask(1))
						if d := oip.Parse(err); err != nil && d.Reason != oip.ReasonModelNotFound && d.Reason != oip.ReasonModelLoading && d.Reason != oip.ReasonModelLoadFailed {
							t.Errorf("seed %d: %v", seed, err)
						}
						time.Sleep(time.Millisecond)
					}
				})
			}
			serves := "double" // the function that must answer, or the reason why none does
			for range 30 {
				var err error
				switch op := rng.IntN(4); op {
				case 0:
					if err = unload(t.Context(), c, "m"); err != nil {
						t.Errorf("seed %d: unload: %v", seed, err)
					}
					serves = oip.ReasonModelNotFound
				case 1:
					s.set(mock.Config{LoadTime: time.Duration(rng.IntN(9)) * time.Millisecond}, errors.New("broken"))
					if err = load(t.Context(), c, "m"); err == nil {
						t.Errorf("seed %d: a broken model was loaded", seed)
					}
					if serves == oip.ReasonModelNotFound {
						serves = oip.ReasonModelLoadFailed
					}
				default:
					serves = []string{"double", "echo"}[rng.IntN(2)]
					s.set(mock.Config{Function: serves, Latency: time.Duration(rng.IntN(20)) * time.Millisecond, LoadTime: time.Duration(rng.IntN(9)) * time.Millisecond}, nil)
					if err = load(t.Context(), c, "m"); err != nil {
						t.Errorf("seed %d: load: %v", seed, err)
					}
				}
				resp, err := c.ModelInfer(t.Context(), ask(3))
				got := oip.Parse(err).Reason
				if err == nil {
					got = map[float32]string{3: "echo", 6: "double"}[readFloats(resp.RawOutputContents[0])[0]]
				}
				if got != serves {
					t.Errorf("seed %d: %q, want %q (%v)", seed, got, serves, err)
				}
			}
			stop()
			wg.Wait()
			r.srv.Close()
			if s.late.Load() != 0 || s.open.Load() != 0 {
				t.Errorf("seed %d: %d runs of a closed model, %d models left open", seed, s.late.Load(), s.open.Load())
			}
		})
	}
}
