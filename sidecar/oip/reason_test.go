package oip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

var errorTests = []struct {
	err  error
	want Details
}{
	{Error(codes.ResourceExhausted, ReasonQueueFull, "the queue is full", WithRetryAfter(250*time.Millisecond), WithMetadata(MetaModel, "digits"), WithMetadata(MetaRequestID, "7")),
		Details{Code: codes.ResourceExhausted, Message: "the queue is full", Reason: "QUEUE_FULL", Domain: ErrorDomain,
			Metadata: map[string]string{"model": "digits", "request_id": "7"}, RetryAfter: 250 * time.Millisecond}},
	{Error(codes.InvalidArgument, ReasonBadTensor, "two rows are bad", WithBadRows("a].rows[1]", "NaN", 17, 3), WithBadRows("b", "too large", 3), WithBadInput("c", "no such input")),
		Details{Code: codes.InvalidArgument, Message: "two rows are bad", Reason: "BAD_TENSOR", Domain: ErrorDomain, BadRows: []int{3, 17},
			Violations: []Violation{{"inputs[a].rows[1]].rows[17]", "NaN"}, {"inputs[a].rows[1]].rows[3]", ""}, {"inputs[b].rows[3]", "too large"}, {"inputs[c]", "no such input"}}}},
	{Error(codes.Internal, ReasonBackendError, "bad \xff text", WithMetadata("k", "\xfe"), WithBadRows("x\xff", "y\xff", 0), WithRetryAfter(-time.Second)),
		Details{Code: codes.Internal, Message: "bad \uFFFD text", Reason: "BACKEND_ERROR", Domain: ErrorDomain,
			Metadata: map[string]string{"k": "\uFFFD"}, BadRows: []int{0}, Violations: []Violation{{"inputs[x\uFFFD].rows[0]", "y\uFFFD"}}}},
	{status.Error(codes.Unavailable, "Exceeds maximum queue size"), Details{Code: codes.Unavailable, Message: "Exceeds maximum queue size"}},
}

func TestErrorAndParse(t *testing.T) {
	for _, c := range errorTests {
		got := Parse(c.err)
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v\ngives %+v\nwant  %+v", c.err, got, c.want)
		}
		if got.Ours() != (c.want.Reason != "") {
			t.Errorf("%v: Ours is %v", c.err, got.Ours())
		}
		wrapped := Parse(fmt.Errorf("calling: %w", c.err))
		if wrapped.Code != c.want.Code || wrapped.Reason != c.want.Reason || !strings.HasPrefix(wrapped.Message, "calling: ") {
			t.Errorf("wrapped: %+v", wrapped)
		}
	}
	for _, c := range []struct {
		err  error
		want Details
	}{
		{nil, Details{}},
		{errors.New("odd"), Details{Code: codes.Unknown, Message: "odd"}},
		{context.DeadlineExceeded, Details{Code: codes.DeadlineExceeded, Message: context.DeadlineExceeded.Error()}},
		{fmt.Errorf("x: %w", context.Canceled), Details{Code: codes.Canceled, Message: "x: context canceled"}},
	} {
		if got := Parse(c.err); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v gives %+v, want %+v", c.err, got, c.want)
		}
	}
	// OK is not an error. A caller that makes an error with it must not get a success.
	if got := Parse(Error(codes.OK, ReasonBadTensor, "m")); got.Code != codes.Internal || !strings.Contains(got.Message, "m") {
		t.Errorf("an error of code OK gives %+v", got)
	}
}

// The other side's details may be nonsense.
func TestParseHostileDetails(t *testing.T) {
	st, err := status.New(codes.InvalidArgument, "m").WithDetails(
		&errdetails.RetryInfo{}, &errdetails.RetryInfo{RetryDelay: &durationpb.Duration{Seconds: 1 << 62, Nanos: -5}},
		&errdetails.RetryInfo{RetryDelay: &durationpb.Duration{Seconds: -3}},
		&errdetails.ErrorInfo{Reason: "OTHER", Domain: "example.com"},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: "inputs[x].rows[-1]"}, {Field: "inputs[x].rows[99999999999]"}, {Field: "inputs[x].rows[+1]"}, {Field: "inputs[x].rows[]"},
			{Field: "inputs[x].rows[1"}, {Field: "].rows[1]"}, {Field: "inputs["}, {Field: ""}, {Field: "inputs[].rows[2]"}}})
	if err != nil {
		t.Fatal(err)
	}
	got := Parse(st.Err())
	if got.RetryAfter != 0 || got.Ours() || !reflect.DeepEqual(got.BadRows, []int{2}) || len(got.Violations) != 9 {
		t.Errorf("%+v", got)
	}
}

type failing struct {
	UnimplementedGRPCInferenceServiceServer
	err error
}

func (f *failing) ModelInfer(context.Context, *ModelInferRequest) (*ModelInferResponse, error) {
	return nil, f.err
}

// The details arrive through gRPC unchanged.
func TestErrorsOverTheWire(t *testing.T) {
	listener := bufconn.Listen(1 << 16)
	srv := &failing{}
	server := grpc.NewServer()
	RegisterGRPCInferenceServiceServer(server, srv)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///sidecar", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	for _, c := range errorTests {
		srv.err = c.err
		_, err := NewGRPCInferenceServiceClient(conn).ModelInfer(t.Context(), &ModelInferRequest{})
		if got := Parse(err); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v\ngives %+v\nwant  %+v", c.err, got, c.want)
		}
	}
}

// Of a long status, the beginning of each text is kept, and every detail that has a meaning.
func TestLongStatus(t *testing.T) {
	long := strings.Repeat("wörter ", 1<<17)
	var rows []int
	for i := range 1000 {
		rows = append(rows, i)
	}
	many := map[string]string{}
	for i := range 1000 {
		many[fmt.Sprint(i)] = "x"
	}
	opts := []Option{WithRetryAfter(time.Second), WithBadRows("x", long, rows...)}
	for k, v := range many {
		opts = append(opts, WithMetadata(k, v))
	}
	err := Error(codes.InvalidArgument, ReasonBadTensor, long, opts...)
	short := Shorten(err)
	for _, e := range []error{err, short} {
		d := Parse(e)
		if len(d.Message) > 4<<10 || !utf8.ValidString(d.Message) || !strings.HasSuffix(d.Message, "... (cut; it has 1048576 bytes)") {
			t.Errorf("%d bytes: %.100s", len(d.Message), d.Message)
		}
		if d.Code != codes.InvalidArgument || !d.Ours() || d.Reason != ReasonBadTensor || d.RetryAfter != time.Second || len(d.Metadata) != 64 ||
			len(d.Violations) != 64 || len(d.Violations[0].Description) > 4<<10 || len(d.BadRows) < 64 {
			t.Errorf("%v %s %v, %d entries of metadata, %d violations, %d rows", d.Code, d.Reason, d.RetryAfter, len(d.Metadata), len(d.Violations), len(d.BadRows))
		}
	}
	if n := proto.Size(status.Convert(short).Proto()); n > 16<<10 {
		t.Errorf("%d bytes are left", n)
	}
	few := Error(codes.Internal, ReasonBackendError, "few words")
	for _, e := range []error{nil, few, io.EOF, context.Canceled} {
		if Shorten(e) != e {
			t.Errorf("%v did not stay the same error", e)
		}
	}
	if e := Shorten(errors.New(long)); len(e.Error()) > 5<<10 {
		t.Errorf("an error without a status has %d bytes", len(e.Error()))
	}
}
