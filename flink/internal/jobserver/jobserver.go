// Package jobserver is a Beam job server for tests. It accepts jobs like the job server for Flink,
// runs nothing, and ends each job as a script says.
package jobserver

import (
	"context"
	"net"
	"sync"
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// JobID is the name of the job that a Server has.
const JobID = "job-1"

// Script says how a job goes. With the zero value it is done at once.
type Script struct {
	// Prepare, Stage, Run and Watch are the errors of these steps.
	Prepare, Stage, Run, Watch error
	// Hang names the step that never answers, in lower case: one of these, or "state" for the
	// request for the state at the end.
	Hang string
	// Get makes the artifact service ask for an artifact's content.
	Get bool
	// Messages are errors of the job that are sent before its end.
	Messages []string
	// End is the state in which the job ends. Unspecified: done.
	End jobpb.JobState_Enum
	// Ends, if not nil, is closed when the job ends.
	Ends chan struct{}
	// Started, if not nil, is closed when a client waits for the job's end.
	Started chan struct{}
}

// Server is a job server with one job.
type Server struct {
	jobpb.UnimplementedJobServiceServer
	jobpb.UnimplementedArtifactStagingServiceServer
	// Address is host:port.
	Address string
	script  Script
	over    chan struct{}

	mu       sync.Mutex
	prepared *jobpb.PrepareJobRequest
	ran      *jobpb.RunJobRequest
	staged   []string
	once     sync.Once
}

// Start starts a server that ends with the test.
func Start(t testing.TB, script Script) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Address: l.Addr().String(), script: script, over: make(chan struct{})}
	server := grpc.NewServer()
	jobpb.RegisterJobServiceServer(server, s)
	jobpb.RegisterArtifactStagingServiceServer(server, s)
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(l) }) // it ends with Stop
	t.Cleanup(func() {
		close(s.over)
		server.Stop()
		served.Wait()
	})
	return s
}

// Prepared returns the request to prepare the job, or nil before it.
func (s *Server) Prepared() *jobpb.PrepareJobRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.prepared
}

// Ran returns the request to run the job, or nil before it.
func (s *Server) Ran() *jobpb.RunJobRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ran
}

// Staged returns the worker ids and tokens of the stagings that were completed.
func (s *Server) Staged() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.staged
}

// step returns the outcome of a step.
func (s *Server) step(ctx context.Context, name string, err error) error {
	if s.script.Hang == name {
		select {
		case <-ctx.Done():
		case <-s.over:
		}
		return context.Canceled
	}
	return err
}

// Prepare implements Beam's job service.
func (s *Server) Prepare(ctx context.Context, r *jobpb.PrepareJobRequest) (*jobpb.PrepareJobResponse, error) {
	s.mu.Lock()
	s.prepared = r
	s.mu.Unlock()
	return &jobpb.PrepareJobResponse{
		PreparationId: "prepared-1", StagingSessionToken: "token-1",
		ArtifactStagingEndpoint: &pipepb.ApiServiceDescriptor{Url: s.Address},
	}, s.step(ctx, "prepare", s.script.Prepare)
}

// ReverseArtifactRetrievalService implements Beam's artifact service. It asks about one
// environment.
func (s *Server) ReverseArtifactRetrievalService(stream jobpb.ArtifactStagingService_ReverseArtifactRetrievalServiceServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := s.step(stream.Context(), "stage", s.script.Stage); err != nil {
		return err
	}
	ask := &jobpb.ArtifactRequestWrapper{Request: &jobpb.ArtifactRequestWrapper_ResolveArtifact{ResolveArtifact: &jobpb.ResolveArtifactsRequest{}}}
	if s.script.Get {
		ask.Request = &jobpb.ArtifactRequestWrapper_GetArtifact{GetArtifact: &jobpb.GetArtifactRequest{Artifact: &pipepb.ArtifactInformation{TypeUrn: "beam:artifact:type:file:v1"}}}
	}
	if err := stream.Send(ask); err != nil {
		return err
	}
	if _, err := stream.Recv(); err != nil {
		return err
	}
	md, _ := metadata.FromIncomingContext(stream.Context())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.staged = append(s.staged, append(md.Get("worker_id"), first.GetStagingToken())...)
	return nil
}

// Run implements Beam's job service.
func (s *Server) Run(ctx context.Context, r *jobpb.RunJobRequest) (*jobpb.RunJobResponse, error) {
	s.mu.Lock()
	s.ran = r
	s.mu.Unlock()
	return &jobpb.RunJobResponse{JobId: JobID}, s.step(ctx, "run", s.script.Run)
}

// GetMessageStream implements Beam's job service.
func (s *Server) GetMessageStream(_ *jobpb.JobMessagesRequest, stream jobpb.JobService_GetMessageStreamServer) error {
	state := func(st jobpb.JobState_Enum) error {
		return stream.Send(&jobpb.JobMessagesResponse{Response: &jobpb.JobMessagesResponse_StateResponse{StateResponse: &jobpb.JobStateEvent{State: st}}})
	}
	if err := state(jobpb.JobState_RUNNING); err != nil {
		return err
	}
	if s.script.Started != nil {
		s.once.Do(func() { close(s.script.Started) })
	}
	if s.script.Ends != nil {
		select {
		case <-s.script.Ends:
		case <-stream.Context().Done():
		case <-s.over:
		}
	}
	if err := s.step(stream.Context(), "watch", s.script.Watch); err != nil {
		return err
	}
	for _, text := range s.script.Messages {
		for importance, text := range map[jobpb.JobMessage_MessageImportance]string{
			jobpb.JobMessage_JOB_MESSAGE_ERROR: text, jobpb.JobMessage_JOB_MESSAGE_BASIC: "not this one",
		} {
			m := &jobpb.JobMessage{Importance: importance, MessageText: text}
			if err := stream.Send(&jobpb.JobMessagesResponse{Response: &jobpb.JobMessagesResponse_MessageResponse{MessageResponse: m}}); err != nil {
				return err
			}
		}
	}
	return state(s.end())
}

func (s *Server) end() jobpb.JobState_Enum {
	if s.script.End == jobpb.JobState_UNSPECIFIED {
		return jobpb.JobState_DONE
	}
	return s.script.End
}

// GetState implements Beam's job service.
func (s *Server) GetState(ctx context.Context, _ *jobpb.GetJobStateRequest) (*jobpb.JobStateEvent, error) {
	return &jobpb.JobStateEvent{State: s.end()}, s.step(ctx, "state", nil)
}
