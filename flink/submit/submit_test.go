package submit

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tensorferry/tensorferry/flink/internal/jobserver"
	"github.com/tensorferry/tensorferry/flink/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m, nil) }

var quiet = slog.New(slog.DiscardHandler)

// pipeline is a small one.
func pipeline() *beam.Pipeline {
	p, s := beam.NewPipelineWithRoot()
	beam.Create(s, 1, 2, 3)
	return p
}

// submitted submits to a scripted server.
func submitted(t *testing.T, script jobserver.Script, o Options) (*Job, *jobserver.Server) {
	t.Helper()
	s := jobserver.Start(t, script)
	o.JobServer, o.WorkerPool = s.Address, "127.0.0.1:50000"
	j, err := Submit(t.Context(), pipeline(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j, s
}

func TestWhatArrives(t *testing.T) {
	j, s := submitted(t, jobserver.Script{}, Options{Name: "digits"})
	if j.ID != jobserver.JobID {
		t.Errorf("the job is %q", j.ID)
	}
	if ran := s.Ran(); ran.GetPreparationId() != "prepared-1" || ran.GetRetrievalToken() != "token-1" {
		t.Errorf("it is run with %v", ran)
	}
	if got := s.Staged(); !reflect.DeepEqual(got, []string{"prepared-1", "token-1"}) {
		t.Errorf("staged: %q", got)
	}
	r := s.Prepared()
	if r.GetJobName() != "digits" {
		t.Errorf("the name is %q", r.GetJobName())
	}
	envs := r.GetPipeline().GetComponents().GetEnvironments()
	if len(envs) != 1 {
		t.Fatalf("%d environments", len(envs))
	}
	for _, env := range envs {
		var at pipepb.ExternalPayload
		if err := proto.Unmarshal(env.GetPayload(), &at); err != nil {
			t.Fatal(err)
		}
		if env.GetUrn() != graphx.URNEnvExternal || at.GetEndpoint().GetUrl() != "127.0.0.1:50000" || len(env.GetDependencies()) != 0 {
			t.Errorf("the environment is %v at %v", env, &at)
		}
	}
	if len(r.GetPipeline().GetComponents().GetTransforms()) == 0 {
		t.Error("the pipeline is empty")
	}
}

func TestOptions(t *testing.T) {
	base := map[string]any{
		"runner": "FlinkRunner", "app_name": "tensorferry", "job_name": "tensorferry", "streaming": true,
		"max_bundle_size": 10000., "max_bundle_time_mills": 200., "auto_watermark_interval": 100.,
		"finish_bundle_before_checkpointing": true, "experiments": []any{"beam_fn_api", "data_buffer_time_limit_ms=5"},
	}
	for name, c := range map[string]struct {
		o    Options
		more map[string]any
	}{
		"defaults":    {Options{}, nil},
		"name":        {Options{Name: "digits"}, map[string]any{"app_name": "digits", "job_name": "digits"}},
		"bounded":     {Options{Bounded: true}, map[string]any{"shutdown_sources_after_idle_ms": 0.}},
		"parallelism": {Options{Parallelism: 12}, map[string]any{"parallelism": 12.}},
		"bundles":     {Options{MaxBundleSize: 1, MaxBundleTime: 5 * time.Second}, map[string]any{"max_bundle_size": 1., "max_bundle_time_mills": 5000.}},
		"checkpoints": {Options{CheckpointInterval: 2 * time.Second, CheckpointTimeout: time.Minute, CheckpointPause: time.Millisecond}, map[string]any{
			"checkpointing_interval": 2000., "checkpointing_mode": "EXACTLY_ONCE", "externalized_checkpoints_enabled": false,
			"retain_externalized_checkpoints_on_cancellation": false, "checkpoint_timeout_millis": 60000., "min_pause_between_checkpoints": 1.}},
		"retained": {Options{CheckpointInterval: 10 * time.Millisecond, RetainCheckpoints: true}, map[string]any{
			"checkpointing_interval": 10., "checkpointing_mode": "EXACTLY_ONCE", "externalized_checkpoints_enabled": true,
			"retain_externalized_checkpoints_on_cancellation": true}},
		"no restart":  {Options{Restarts: NoRestart, RestartDelay: time.Second}, map[string]any{"number_of_execution_retries": 0.}},
		"restarts":    {Options{Restarts: math.MaxInt32, RestartDelay: 1500 * time.Millisecond}, map[string]any{"number_of_execution_retries": 2147483647., "execution_retry_delay": 1500.}},
		"at once":     {Options{Restarts: 1}, map[string]any{"number_of_execution_retries": 1., "execution_retry_delay": 0.}},
		"savepoint":   {Options{Savepoint: "s3://b/sp-1"}, map[string]any{"savepoint_path": "s3://b/sp-1", "allow_non_restored_state": false}},
		"lost state":  {Options{Savepoint: "/sp", IgnoreLostState: true}, map[string]any{"savepoint_path": "/sp", "allow_non_restored_state": true}},
		"experiments": {Options{Experiments: []string{"a=b", "c"}}, map[string]any{"experiments": []any{"beam_fn_api", "data_buffer_time_limit_ms=5", "a=b", "c"}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, s := submitted(t, jobserver.Script{}, c.o)
			want := map[string]any{}
			for _, m := range []map[string]any{base, c.more} {
				for k, v := range m {
					want["beam:option:"+k+":v1"] = v
				}
			}
			got := s.Prepared().GetPipelineOptions().AsMap()
			if !reflect.DeepEqual(got, want) {
				for k := range maps.Keys(want) {
					if !reflect.DeepEqual(got[k], want[k]) {
						t.Errorf("%s is %v; want %v", k, got[k], want[k])
					}
					delete(got, k)
				}
				if len(got) > 0 {
					t.Errorf("there is also %v", got)
				}
			}
		})
	}
}

func TestValidate(t *testing.T) {
	good := Options{JobServer: "a:1", WorkerPool: "b:2"}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Options){
		"JobServer is missing; want host:port":             func(o *Options) { o.JobServer = "" },
		"WorkerPool is missing; want the host:port":        func(o *Options) { o.WorkerPool = "" },
		"parallelism is -1; want 1 or more":                func(o *Options) { o.Parallelism = -1 },
		"bundles of -1 records":                            func(o *Options) { o.MaxBundleSize = -1 },
		"bundles of 0 records and 1µs; want":               func(o *Options) { o.MaxBundleTime = time.Microsecond },
		"bundles of 0 records and -1s; want":               func(o *Options) { o.MaxBundleTime = -time.Second },
		"bundles of 5.001s; want 5s or less":               func(o *Options) { o.MaxBundleTime = 5001 * time.Millisecond },
		"a checkpoint interval of -1s":                     func(o *Options) { o.CheckpointInterval = -time.Second },
		"timeout of -1s, pause":                            func(o *Options) { o.CheckpointTimeout = -time.Second },
		"pause of -1s":                                     func(o *Options) { o.CheckpointPause = -time.Second },
		"restart delay of -1s; want none below 0":          func(o *Options) { o.RestartDelay = -time.Second },
		"interval of 9ms and timeout of 0s; Flink takes":   func(o *Options) { o.CheckpointInterval = 9 * time.Millisecond },
		"interval of 0s and timeout of 1ms; Flink takes":   func(o *Options) { o.CheckpointTimeout = time.Millisecond },
		"-2 restarts; want 1 or more, 0 for the cluster's": func(o *Options) { o.Restarts = -2 },
	} {
		o := good
		change(&o)
		err := o.Validate()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("the error is %v; want only %q", err, want)
		}
		if _, err := Submit(t.Context(), pipeline(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Submit: %v; want %q", err, want)
		}
	}
	err := Options{Parallelism: -1}.Validate()
	for _, want := range []string{"JobServer is missing", "WorkerPool is missing", "parallelism"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v; want %q in it", err, want)
		}
	}
}

func TestWait(t *testing.T) {
	failed := func(text string) func(error) bool {
		return func(err error) bool {
			f, ok := errors.AsType[*FailedError](err)
			return ok && f.Job == jobserver.JobID && f.Text == text && strings.Contains(err.Error(), "the job job-1 failed: "+text)
		}
	}
	contains := func(text string) func(error) bool {
		return func(err error) bool { return err != nil && strings.Contains(err.Error(), text) }
	}
	for name, c := range map[string]struct {
		script jobserver.Script
		ok     func(error) bool
	}{
		"done":          {jobserver.Script{}, func(err error) bool { return err == nil }},
		"with messages": {jobserver.Script{Messages: []string{"a task failed"}}, func(err error) bool { return err == nil }},
		"failed":        {jobserver.Script{End: jobpb.JobState_FAILED, Messages: []string{"first", "java.lang.E: x\n\tat y"}}, failed("java.lang.E: x\n\tat y")},
		"silent":        {jobserver.Script{End: jobpb.JobState_FAILED}, failed("its state is FAILED")},
		"unfinished":    {jobserver.Script{End: jobpb.JobState_RUNNING}, failed("its state is RUNNING")},
		"cancelled":     {jobserver.Script{End: jobpb.JobState_CANCELLED}, func(err error) bool { return errors.Is(err, ErrCancelled) }},
		"cancelling":    {jobserver.Script{End: jobpb.JobState_CANCELLING}, func(err error) bool { return errors.Is(err, ErrCancelled) }},
		"server ends":   {jobserver.Script{Watch: status.Error(codes.Unavailable, "going away")}, contains("stopped reporting on the job job-1, which may still run: rpc error: code = Unavailable desc = going away")},
	} {
		t.Run(name, func(t *testing.T) {
			j, _ := submitted(t, c.script, Options{})
			if err := j.Wait(t.Context(), quiet); !c.ok(err) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestWaitIsGivenUp(t *testing.T) {
	script := jobserver.Script{Ends: make(chan struct{}), Started: make(chan struct{})}
	j, _ := submitted(t, script, Options{})
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-script.Started
		cancel(cause)
	}()
	if err := j.Wait(ctx, quiet); !errors.Is(err, cause) {
		t.Error(err)
	}
	close(script.Ends) // it went on
	if err := j.Wait(t.Context(), quiet); err != nil {
		t.Error(err)
	}
}

func TestServersThatDoNotTakeIt(t *testing.T) {
	// What hangs must be the question that is meant, also where the ones before it are answered
	// slowly.
	const answer = 3 * time.Second
	for name, c := range map[string]struct {
		script jobserver.Script
		want   []string
	}{
		"prepare": {jobserver.Script{Prepare: status.Error(codes.InvalidArgument, "no such transform")}, []string{"did not accept the job digits", "no such transform"}},
		"stage":   {jobserver.Script{Stage: status.Error(codes.Internal, "disk full")}, []string{"artifact service at", "disk full"}},
		"get":     {jobserver.Script{Get: true}, []string{"artifact service at", "it asks for beam:artifact:type:file:v1, but the job has nothing to stage"}},
		"run":     {jobserver.Script{Run: status.Error(codes.Internal, "no slots")}, []string{"did not start the job digits", "no slots"}},

		"prepare hangs": {jobserver.Script{Hang: "prepare"}, []string{"did not accept the job digits", "no answer within 3s"}},
		"stage hangs":   {jobserver.Script{Hang: "stage"}, []string{"artifact service at", "no answer within 3s"}},
		"run hangs":     {jobserver.Script{Hang: "run"}, []string{"did not start the job digits", "no answer within 3s"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := jobserver.Start(t, c.script)
			within := time.Minute
			if c.script.Hang != "" {
				within = answer
			}
			_, err := submit(t.Context(), pipeline(), Options{Name: "digits", JobServer: s.Address, WorkerPool: "127.0.0.1:1"}, within)
			for _, want := range append(c.want, s.Address, "submit: ") {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("the error is %v; want %q in it", err, want)
				}
			}
		})
	}
	t.Run("state hangs", func(t *testing.T) {
		t.Parallel()
		s := jobserver.Start(t, jobserver.Script{Hang: "state"})
		j, err := submit(t.Context(), pipeline(), Options{JobServer: s.Address, WorkerPool: "127.0.0.1:1"}, answer)
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		if err := j.Wait(t.Context(), quiet); err == nil || !strings.Contains(err.Error(), "ask about the job job-1: no answer within 3s") {
			t.Error(err)
		}
	})
}

// nobodyAt is an address that refuses connections for as long as the test runs: its port is that
// of a connection of the test's own, so that nobody else comes to listen on it.
func nobodyAt(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().String()
}

func TestNoServer(t *testing.T) {
	absent := nobodyAt(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, address := range []string{absent, silent.Addr().String()} {
		_, err := submit(t.Context(), pipeline(), Options{Name: "digits", JobServer: address, WorkerPool: "127.0.0.1:1"}, 100*time.Millisecond)
		if err == nil || !strings.Contains(err.Error(), "the job server "+address+" did not accept the job digits: no answer within 100ms") {
			t.Error(err)
		}
	}
	cause, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Submit(cause, pipeline(), Options{JobServer: absent, WorkerPool: "127.0.0.1:1"})
	if err == nil || strings.Contains(err.Error(), "no answer within") || status.Code(errors.Unwrap(err)) != codes.Canceled {
		t.Errorf("given up by its caller: %v", err)
	}
}
