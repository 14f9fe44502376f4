package submit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/internal/brief"
)

// answerTimeout bounds the wait for a job server, at each step.
const answerTimeout = 30 * time.Second

// maxMessage is enough for pipelines and messages of any sensible size.
const maxMessage = 64 << 20

// Job is a job on Flink. Close closes the connection to the job server, and does not touch the job.
type Job struct {
	// ID is the job server's name for the job.
	ID   string
	conn *grpc.ClientConn
	jobs jobpb.JobServiceClient

	answer time.Duration // answerTimeout
}

// Submit submits a pipeline. It returns as soon as the job server has accepted it. Wait returns how
// the job ended.
func Submit(ctx context.Context, p *beam.Pipeline, o Options) (*Job, error) {
	return submit(ctx, p, o, answerTimeout)
}

func submit(ctx context.Context, p *beam.Pipeline, o Options, answer time.Duration) (_ *Job, err error) {
	o, err = o.resolve()
	if err != nil {
		return nil, err
	}
	options, err := o.proto()
	if err != nil {
		return nil, fmt.Errorf("submit: the options: %w", err)
	}
	pipeline, err := marshal(ctx, p, o.WorkerPool)
	if err != nil {
		return nil, err
	}
	conn, err := dial(o.JobServer)
	if err != nil {
		return nil, fmt.Errorf("submit: the job server %s: %w", o.JobServer, err)
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	j := &Job{conn: conn, jobs: jobpb.NewJobServiceClient(conn), answer: answer}
	var ready *jobpb.PrepareJobResponse
	err = j.within(ctx, func(ctx context.Context) (err error) {
		ready, err = j.jobs.Prepare(ctx, &jobpb.PrepareJobRequest{Pipeline: pipeline, PipelineOptions: options, JobName: o.Name}, grpc.WaitForReady(true))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("submit: the job server %s did not accept the job %s: %w", o.JobServer, o.Name, err)
	}
	if err := j.within(ctx, func(ctx context.Context) error { return stage(ctx, ready) }); err != nil {
		return nil, fmt.Errorf("submit: the job server's artifact service at %s: %w", ready.GetArtifactStagingEndpoint().GetUrl(), err)
	}
	err = j.within(ctx, func(ctx context.Context) error {
		run, err := j.jobs.Run(ctx, &jobpb.RunJobRequest{PreparationId: ready.GetPreparationId(), RetrievalToken: ready.GetStagingSessionToken()})
		j.ID = run.GetJobId()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("submit: the job server %s did not start the job %s: %w", o.JobServer, o.Name, err)
	}
	return j, nil
}

// within bounds the time of a request to the job server.
func (j *Job) within(ctx context.Context, ask func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, j.answer)
	defer cancel()
	err := ask(bounded)
	if err == nil || ctx.Err() != nil {
		return err
	}
	// The deadline travels with the request, so the server may give up a little earlier, with
	// either code.
	deadline, _ := bounded.Deadline()
	code := status.Code(err)
	if bounded.Err() != nil || (code == codes.DeadlineExceeded || code == codes.Canceled) && time.Until(deadline) < j.answer/10 {
		err = fmt.Errorf("no answer within %v: %w", j.answer, err)
	}
	return err
}

// marshal writes a pipeline for workers of an external pool, which have their program already.
func marshal(ctx context.Context, p *beam.Pipeline, pool string) (*pipepb.Pipeline, error) {
	if !beam.Initialized() {
		return nil, errors.New("submit: call beam.Init before building a pipeline")
	}
	edges, _, err := p.Build()
	if err != nil {
		return nil, fmt.Errorf("submit: the pipeline: %w", err)
	}
	env, err := graphx.CreateEnvironment(ctx, graphx.URNEnvExternal, func(context.Context) string { return pool })
	if err != nil {
		return nil, fmt.Errorf("submit: the pipeline's environment: %w", err)
	}
	env.Dependencies = nil
	pipeline, err := graphx.Marshal(edges, &graphx.Options{Environment: env})
	if err != nil {
		return nil, fmt.Errorf("submit: the pipeline: %w", err)
	}
	return pipeline, nil
}

func dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address, append(short(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))...)
}

// stage answers the artifact service, which asks about every environment, that there is nothing to
// stage.
func stage(ctx context.Context, ready *jobpb.PrepareJobResponse) error {
	conn, err := dial(ready.GetArtifactStagingEndpoint().GetUrl())
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx = metadata.AppendToOutgoingContext(ctx, "worker_id", ready.GetPreparationId())
	stream, err := jobpb.NewArtifactStagingServiceClient(conn).ReverseArtifactRetrievalService(ctx, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	if err := stream.Send(&jobpb.ArtifactResponseWrapper{StagingToken: ready.GetStagingSessionToken()}); err != nil && err != io.EOF {
		return err
	}
	for {
		in, err := stream.Recv()
		if err == io.EOF {
			return stream.CloseSend()
		}
		if err != nil {
			return err
		}
		ask := in.GetResolveArtifact()
		if ask == nil {
			return fmt.Errorf("it asks for %v, but the job has nothing to stage", in.GetGetArtifact().GetArtifact().GetTypeUrn())
		}
		answer := &jobpb.ArtifactResponseWrapper{Response: &jobpb.ArtifactResponseWrapper_ResolveArtifactResponse{
			ResolveArtifactResponse: &jobpb.ResolveArtifactsResponse{Replacements: ask.GetArtifacts()},
		}}
		if err := stream.Send(answer); err != nil && err != io.EOF {
			return err
		}
	}
}

// FailedError says that a job has failed. Text is the job server's text, with Flink's exception.
type FailedError struct {
	Job  string
	Text string
}

func (e *FailedError) Error() string { return fmt.Sprintf("the job %s failed: %s", e.Job, e.Text) }

// ErrCancelled says that a job was cancelled through Flink.
var ErrCancelled = errors.New("the job was cancelled")

// Wait waits for the end of the job, and logs its states. It returns nil if the job is done,
// ErrCancelled, or a *FailedError. The job server also calls a job done that was stopped with a
// savepoint. When ctx ends, Wait returns and the job goes on.
func (j *Job) Wait(ctx context.Context, log *slog.Logger) error {
	stream, err := j.jobs.GetMessageStream(ctx, &jobpb.JobMessagesRequest{JobId: j.ID})
	if err != nil {
		return fmt.Errorf("submit: ask about the job %s: %w", j.ID, err)
	}
	var text string
	for {
		m, err := stream.Recv()
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err == io.EOF {
				return j.ended(ctx, text)
			}
			return fmt.Errorf("submit: the job server stopped reporting on the job %s, which may still run: %w", j.ID, err)
		}
		if say := m.GetMessageResponse(); say != nil && say.GetImportance() >= jobpb.JobMessage_JOB_MESSAGE_ERROR {
			text = brief.Text(say.GetMessageText())
		}
		if st := m.GetStateResponse(); st != nil {
			log.Info("job", "id", j.ID, "state", st.GetState().String())
		}
	}
}

// ended returns how a job ended, after its stream of messages.
func (j *Job) ended(ctx context.Context, text string) error {
	state, err := j.State(ctx)
	switch {
	case err != nil:
		return err
	case state == jobpb.JobState_DONE:
		return nil
	case state == jobpb.JobState_CANCELLED || state == jobpb.JobState_CANCELLING:
		return ErrCancelled
	case text == "":
		text = "its state is " + state.String()
	}
	return &FailedError{j.ID, text}
}

// State asks the job server for the job's state.
func (j *Job) State(ctx context.Context) (jobpb.JobState_Enum, error) {
	var st *jobpb.JobStateEvent
	err := j.within(ctx, func(ctx context.Context) (err error) {
		st, err = j.jobs.GetState(ctx, &jobpb.GetJobStateRequest{JobId: j.ID})
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("submit: ask about the job %s: %w", j.ID, err)
	}
	return st.GetState(), nil
}

// Close closes the connection to the job server. The job goes on.
func (j *Job) Close() error { return j.conn.Close() }
