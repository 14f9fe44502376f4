package server

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// statistics are sums of times since a version was loaded. They are counted as in Triton: a request
// that shared a batch has the whole batch's time.
type statistics struct {
	mu      sync.Mutex
	last    time.Time // when the last request ended
	rows    uint64    // of requests that were answered
	batches uint64
	success, fail, queue,
	input, infer, output sum
	sizes map[int]*sizeStatistics // by a batch's rows, which bound the number of entries
}

// sum is how often something happened, and how long it took in all.
type sum struct {
	count uint64
	time  time.Duration
}

func (s *sum) add(n int, d time.Duration) {
	s.count += uint64(n)
	s.time += time.Duration(n) * max(d, 0)
}

func (s *sum) message() *oip.StatisticDuration {
	return &oip.StatisticDuration{Count: s.count, Ns: uint64(s.time)}
}

type sizeStatistics struct{ input, infer, output sum }

// batch counts a batch that was answered, and how long it took to gather its rows (input), to run
// them (infer) and to cut them into answers (output).
func (s *statistics) batch(rows, requests int, input, infer, output time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches++
	s.input.add(requests, input)
	s.infer.add(requests, infer)
	s.output.add(requests, output)
	size := s.sizes[rows]
	if size == nil {
		if s.sizes == nil {
			s.sizes = map[int]*sizeStatistics{}
		}
		size = &sizeStatistics{}
		s.sizes[rows] = size
	}
	size.input.add(1, input)
	size.infer.add(1, infer)
	size.output.add(1, output)
}

// request counts a request that ended. It took total in all, and waited in the queue for queued.
func (s *statistics) request(ok bool, rows int, total, queued time.Duration) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = now
	if !ok {
		s.fail.add(1, total)
		return
	}
	s.rows += uint64(rows)
	s.success.add(1, total)
	s.queue.add(1, queued)
}

func (s *statistics) message(name, version string) *oip.ModelStatistics {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &oip.ModelStatistics{
		Name: name, Version: version, InferenceCount: s.rows, ExecutionCount: s.batches,
		InferenceStats: &oip.InferStatistics{
			Success: s.success.message(), Fail: s.fail.message(), Queue: s.queue.message(),
			ComputeInput: s.input.message(), ComputeInfer: s.infer.message(), ComputeOutput: s.output.message(),
			CacheHit: &oip.StatisticDuration{}, CacheMiss: &oip.StatisticDuration{},
		},
	}
	if !s.last.IsZero() {
		out.LastInference = uint64(s.last.UnixMilli())
	}
	for _, rows := range slices.Sorted(maps.Keys(s.sizes)) {
		size := s.sizes[rows]
		out.BatchStats = append(out.BatchStats, &oip.InferBatchStatistics{BatchSize: uint64(rows),
			ComputeInput: size.input.message(), ComputeInfer: size.infer.message(), ComputeOutput: size.output.message()})
	}
	return out
}

// ModelStatistics returns the statistics of the versions that take requests, of one model or of
// all.
func (s *service) ModelStatistics(_ context.Context, req *oip.ModelStatisticsRequest) (*oip.ModelStatisticsResponse, error) {
	if req.GetName() != "" {
		// If no version answers such requests, the error is theirs.
		if _, _, f := s.describe(req.GetName(), req.GetVersion()); f != nil {
			return nil, f.status(req.GetName(), "")
		}
	}
	out := &oip.ModelStatisticsResponse{}
	for _, f := range s.repo.all() {
		if req.GetName() != "" && f.name != req.GetName() {
			continue
		}
		f.mu.Lock()
		versions := slices.Clone(f.versions)
		f.mu.Unlock()
		for _, m := range slices.Backward(versions) {
			if req.GetVersion() == "" || m.version == req.GetVersion() {
				out.ModelStats = append(out.ModelStats, m.runner.statistics.message(m.name, m.version))
			}
		}
	}
	return out, nil
}
