package callbacks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/stream"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
	"github.com/tensorferry/tensorferry/stream/restart"
)

// source gives 0 to 9, one every 10 ms.
type source struct{ *trap }

func (s source) Splits(context.Context) ([]connector.Split, error) {
	return []connector.Split{{}}, s.spring("connector.Source.Splits")
}

func (s source) Verify(context.Context, []connector.Split, []int64) error {
	return s.spring("connector.Source.Verify")
}

func (s source) CheckLoop(context.Context, ...any) error {
	return s.spring("connector.LoopChecker.CheckLoop")
}

func (s source) Open(_ context.Context, _ connector.Split, position int64) (connector.Reader[int], error) {
	return &reader{s.trap, position}, s.spring("connector.Source.Open")
}

type reader struct {
	*trap
	at int64
}

func (r *reader) Read(ctx context.Context, dst []stream.Record[int], _ int) ([]stream.Record[int], int64, error) {
	if err := r.spring("connector.Reader.Read"); err != nil {
		return dst, r.at, err
	}
	if r.at == 10 {
		return dst, r.at, io.EOF
	}
	wait(ctx)
	dst = append(dst, stream.Record[int]{Value: int(r.at), Time: async.NoTime, Position: r.at})
	r.at++
	return dst, r.at, ctx.Err()
}

func (r *reader) Describe(dst []byte) []byte {
	r.spring("connector.Describer.Describe")
	return dst
}

func (r *reader) Close() error { return r.spring("connector.Reader.Close") }

func wait(ctx context.Context) {
	select {
	case <-time.After(10 * time.Millisecond):
	case <-ctx.Done():
	}
}

// live is a source without an end, whose splits may change.
type live struct{ source }

func (l live) OpenAll(context.Context, []connector.AssignedSplit) (connector.UnboundedReader[int], error) {
	return &liveReader{l.trap, 0}, l.spring("connector.Unbounded.OpenAll")
}

func (l live) Changed(ctx context.Context) error {
	if err := l.spring("connector.Rebalancing.Changed"); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func (l live) Assign(_ context.Context, splits []connector.Split, next []int64) ([]connector.Split, []int64, error) {
	return splits, next, l.spring("connector.Rebalancing.Assign")
}

type liveReader struct {
	*trap
	at int64
}

func (r *liveReader) Read(ctx context.Context, dst []stream.Record[int], _ int) (int, []stream.Record[int], int64, error) {
	if err := r.spring("connector.UnboundedReader.Read"); err != nil {
		return 0, dst, r.at, err
	}
	wait(ctx)
	r.at++
	return 0, append(dst, stream.Record[int]{Value: 2, Time: async.NoTime, Position: r.at - 1}), r.at, ctx.Err()
}

func (r *liveReader) Close() error { return r.spring("connector.UnboundedReader.Close") }

// sink throws results away.
type sink struct{ *trap }

func (s sink) Open(context.Context, async.Subtask) (connector.Writer[int], error) {
	return writer(s), s.spring("connector.Sink.Open")
}

func (s sink) Committer(context.Context) (connector.Committer, error) {
	return committer(s), s.spring("connector.Sink.Committer")
}

type writer struct{ *trap }

func (w writer) Write([]stream.Record[int]) error { return w.spring("connector.Writer.Write") }
func (w writer) Prepare(context.Context, int64) ([]connector.Pending, error) {
	return nil, w.spring("connector.Writer.Prepare")
}
func (w writer) Close() error { return w.spring("connector.Writer.Close") }
func (w writer) Full() bool {
	w.spring("connector.LimitedWriter.Full")
	return false
}
func (w writer) CheckpointDone(int64, bool) error {
	return w.spring("connector.LimitedWriter.CheckpointDone")
}

type committer struct{ *trap }

func (c committer) Begin(context.Context, []byte) ([]byte, error) {
	return nil, c.spring("connector.Committer.Begin")
}
func (c committer) Plan([]byte, []connector.Pending) (next, plan []byte, err error) {
	return nil, nil, c.spring("connector.Committer.Plan")
}
func (c committer) Commit(context.Context, []byte) error {
	return c.spring("connector.Committer.Commit")
}
func (c committer) Check(context.Context, []byte) error { return c.spring("connector.Checker.Check") }
func (c committer) Salvage(context.Context, []byte, connector.SalvageOptions) ([]byte, []string, error) {
	return nil, nil, nil // it is called by the caller of stream.Salvage
}
func (c committer) Unsettled([]byte) error      { return c.spring("connector.Salvager.Unsettled") }
func (c committer) Clean(context.Context) error { return c.spring("connector.Committer.Clean") }
func (c committer) Close() error                { return c.spring("connector.Committer.Close") }

// store keeps checkpoints in memory.
type store struct {
	*trap
	stream.CheckpointStore
}

func (s store) Write(ctx context.Context, snap *checkpoint.Snapshot) error {
	if err := s.spring("stream.CheckpointStore.Write"); err != nil {
		return err
	}
	return s.CheckpointStore.Write(ctx, snap)
}

func (s store) Newest(ctx context.Context) (*checkpoint.Snapshot, error) {
	if err := s.spring("stream.CheckpointStore.Newest"); err != nil {
		return nil, err
	}
	return s.CheckpointStore.Newest(ctx)
}

type serializer struct{ *trap }

func (s serializer) Append(dst []byte, v int) ([]byte, error) {
	return fmt.Append(dst, v), s.spring("stream.Serializer.Append")
}

func (s serializer) Decode(data []byte) (v int, err error) {
	if err := s.spring("stream.Serializer.Decode"); err != nil {
		return 0, err
	}
	return v, json.Unmarshal(data, &v)
}

type observer struct{ *trap }

func (o observer) Observe(stream.Event) { o.spring("stream.Observer.Observe") }

// inJob runs a job with every function and method that there is, each a place for the trap. At one
// of those that are for a restart, the job fails once by itself and restarts.
func inJob(t *testing.T, tr *trap) error {
	return virtual(func(t *testing.T, tr *trap) error {
		cfg := stream.Config{
			Checkpoint: stream.CheckpointConfig{Interval: 10 * time.Millisecond, Store: store{tr, stream.NewMemoryStore()}},
			Restart:    restart.Config{Strategy: restart.None},
			Observer:   observer{tr}, Tracer: tracer{tr}, Logger: tr.logger(),
		}
		switch tr.at {
		case "connector.Source.Verify", "connector.Checker.Check", "stream.CheckpointStore.Newest", "stream.Serializer.Decode", "stream.Config.Logger":
			cfg.Restart = restart.Config{Strategy: restart.FixedDelay, Attempts: 1, Delay: time.Millisecond}
		}
		j := stream.New("job", cfg)
		failed := cfg.Restart.Strategy == restart.None
		s := stream.Map(stream.From(j, connector.Source[int](source{tr})), func(v int) (int, error) {
			if v == 9 && !failed {
				failed = true
				return 0, errAgain
			}
			return v, tr.spring("stream.Map(fn)")
		})
		s = stream.FlatMap(s, func(v int, emit func(int)) error {
			emit(v)
			return tr.spring("stream.FlatMap(fn)")
		})
		s = stream.Filter(s, func(int) bool {
			tr.spring("stream.Filter(keep)")
			return true
		})
		s = stream.KeyBy(s, func(int) string {
			tr.spring("stream.KeyBy(key)")
			return "k"
		})
		s = stream.UnorderedWait(s, function{tr}, async.Config{
			Capacity: 20, Timeout: time.Second, Retry: async.Retry{Max: 1}, OnError: async.OnError{Backend: action(tr)},
		}, stream.WithSerializer[int](serializer{tr}))
		stream.To(s, connector.Sink[int](sink{tr}))
		return j.Run(t.Context())
	})(t, tr)
}

// action is what becomes of a failure: results in its place, unless the failure itself is to be
// seen.
func action(tr *trap) async.Action {
	if strings.HasPrefix(tr.at, "error.") || tr.at == "async.Failure.Verdict" {
		return async.Fail
	}
	return async.Fallback
}

// inLiveJob runs a job over a source without an end, and stops it.
func inLiveJob(t *testing.T, tr *trap) error {
	return virtual(func(t *testing.T, tr *trap) error {
		j := stream.New("job", stream.Config{Checkpoint: stream.CheckpointConfig{Interval: time.Hour}, Restart: restart.Config{Strategy: restart.None}})
		stream.To(stream.From(j, connector.Source[int](live{source{tr}})), connector.Sink[int](sink{tr}))
		run := j.Start(t.Context())
		time.Sleep(100 * time.Millisecond)
		run.Stop()
		if err := run.Wait(); !errors.Is(err, stream.ErrStopped) {
			return err
		}
		return nil
	})(t, tr)
}

// from runs a job over a source.
func from(make func(tr *trap) connector.Source[int]) func(*testing.T, *trap) error {
	return virtual(func(t *testing.T, tr *trap) error {
		j := stream.New("job", stream.Config{})
		stream.Collect(stream.From(j, make(tr)))
		return j.Run(t.Context())
	})
}

// keyedBy runs a job with a keyed operator.
func keyedBy(at string) func(*testing.T, *trap) error {
	return virtual(func(t *testing.T, tr *trap) error {
		j := stream.New("job", stream.Config{})
		in := stream.From(j, stream.FromSlice([]int{2}))
		key := func(int) string {
			tr.spring(at)
			return "k"
		}
		stream.Collect(stream.KeyedWait(in, key, function{tr}, async.Config{}))
		return j.Run(t.Context())
	})
}

var streamRows = map[string]row{
	"stream.CheckpointConfig.Store":          {why: nested},
	"stream.CheckpointStore.Newest":          {run: inJob, where: "Newest of the checkpoint store", returns: true},
	"stream.CheckpointStore.Write":           {run: inJob, where: "Write of the checkpoint store", returns: true},
	"connector.LoopChecker.CheckLoop":        {run: inJob, where: "CheckLoop of source", returns: true},
	"connector.Checker.Check":                {run: inJob, where: "Check of sink", returns: true},
	"connector.Describer.Describe":           {run: inJob, where: "Read of source"},
	"stream.Published(f)":                    {why: onCallers},
	"connector.Committer.Begin":              {run: inJob, where: "Begin of sink", returns: true},
	"connector.Committer.Clean":              {run: inJob, where: "Clean of sink", returns: true},
	"connector.Committer.Close":              {run: inJob, where: "Close of sink", returns: true},
	"connector.Committer.Commit":             {run: inJob, where: "Commit of sink", returns: true},
	"connector.Committer.Plan":               {run: inJob, where: "Plan of sink", returns: true},
	"stream.Config.Logger":                   {run: loggingJob, returns: true, check: harmless},
	"stream.Config.Observer":                 {why: nested},
	"stream.Config.Tracer":                   {why: nested},
	"stream.Copying(source)":                 {why: nested},
	"connector.Rebalancing.Assign":           {run: inLiveJob, where: "Assign of source", returns: true},
	"connector.Rebalancing.Changed":          {run: inLiveJob, where: "Changed of source", returns: true},
	"stream.Filter(keep)":                    {run: inJob, where: "filter"},
	"stream.FlatMap(fn)":                     {run: inJob, where: "flatmap", returns: true},
	"stream.From(src)":                       {why: nested},
	"connector.LimitedWriter.Full":           {run: inJob, where: "subtask 0 of 1"},
	"connector.LimitedWriter.CheckpointDone": {run: inJob, where: "CheckpointDone of sink", returns: true},
	"stream.KeyBy(key)":                      {run: inJob, where: "keyby"},
	"stream.KeyedWait(fn)":                   {why: nested},
	"stream.KeyedWait(key)":                  {run: keyedBy("stream.KeyedWait(key)"), where: "keyby"},
	"connector.Unbounded.OpenAll":            {run: inLiveJob, where: "Read of source", returns: true},
	// it has been read
	"connector.UnboundedReader.Close": {run: inLiveJob, returns: true, check: harmless},
	"connector.UnboundedReader.Read":  {run: inLiveJob, where: "Read of source", returns: true},
	"stream.Map(fn)":                  {run: inJob, where: "map", returns: true},
	"stream.Observer.Observe":         {run: inJob, where: "Observe"},
	"stream.OrderedWait(fn)":          {why: nested},
	"stream.AsyncWithDeadLetters(fn)": {why: nested},
	"connector.Reader.Close":          {run: inJob, where: "of source", returns: true},
	"connector.Reader.Read":           {run: inJob, where: "Read of source", returns: true},
	"stream.Rewind(committers)":       {why: onCallers},
	"connector.Rewinder.Rewind":       {why: onCallers},
	"stream.Reclaim(committers)":      {why: onCallers},
	"stream.Salvage(committers)":      {why: onCallers},
	"connector.Salvager.Salvage":      {why: onCallers},
	"connector.Salvager.Unsettled":    {run: inJob, where: "Unsettled of sink", returns: true},
	"stream.Serializer.Append":        {run: inJob, where: "the serializer's Append", returns: true},
	"stream.Serializer.Decode":        {run: inJob, where: "the serializer's Decode", returns: true},
	"connector.Sink.Committer":        {run: inJob, where: "Committer of sink", returns: true},
	"connector.Sink.Open":             {run: inJob, where: "sink", returns: true},
	"connector.Source.Open":           {run: inJob, where: "Read of source", returns: true},
	"connector.Source.Splits":         {run: inJob, where: "Splits of source", returns: true},
	"connector.Source.Verify":         {run: inJob, where: "Verify of source", returns: true},
	"stream.To(sink)":                 {why: nested},
	"stream.UnorderedWait(fn)":        {why: nested},
	"stream.Async(fn)":                {why: nested},
	"stream.WithSerializer(s)":        {why: nested},
	// logged: the results are published
	"connector.Writer.Close":   {run: inJob, returns: true, check: harmless},
	"connector.Writer.Prepare": {run: inJob, where: "Prepare of sink", returns: true},
	"connector.Writer.Write":   {run: inJob, where: "Write of sink", returns: true},

	"stream.Copying(copy)": {where: "Read of source", run: from(func(tr *trap) connector.Source[int] {
		return stream.Copying(stream.FromSlice([]int{1}), func(v int) int {
			tr.spring("stream.Copying(copy)")
			return v
		})
	})},
	"stream.FromSeq(seq)": {where: "the sequence", returns: true, run: from(func(tr *trap) connector.Source[int] {
		return stream.FromSeq(func(yield func(int, error) bool) { yield(1, tr.spring("stream.FromSeq(seq)")) }, false)
	})},
}

// loggingJob is a job that logs a restart.
func loggingJob(t *testing.T, tr *trap) error {
	own := &trap{at: "log", mistake: tr.mistake}
	err := virtual(func(t *testing.T, _ *trap) error {
		j := stream.New("job", stream.Config{Logger: own.logger(), Restart: restart.Config{Strategy: restart.FixedDelay, Attempts: 1}})
		failed := false
		stream.Collect(stream.Map(stream.From(j, stream.FromSlice([]int{1})), func(v int) (int, error) {
			if !failed {
				failed = true
				return 0, errAgain
			}
			return v, nil
		}))
		return j.Run(t.Context())
	})(t, tr)
	tr.sprung.Store(own.sprung.Load())
	return err
}
