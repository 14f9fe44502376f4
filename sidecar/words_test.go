package sidecar

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// Whatever a server says, in any part of a status, errors stay short and keep their meaning, and
// the connection survives (A66).
func TestLongWords(t *testing.T) {
	const most = 6 << 10 // 4 KiB from the server, plus where, what and what to do
	long := func(n int) string { return strings.Repeat("wörter ", n/8) }
	for _, c := range []struct {
		name string
		err  error
		is   error
	}{
		{"message of 256 KiB", status.Error(codes.InvalidArgument, long(256<<10)), ErrBadRecord},
		{"message of 20 MB", status.Error(codes.InvalidArgument, strings.Repeat("x", 20<<20)), ErrBadRecord},
		{"description", oip.Error(codes.InvalidArgument, oip.ReasonBadTensor, "no", oip.WithBadRows("x", long(256<<10), 0)), ErrBadRecord},
		{"metadata", oip.Error(codes.Internal, oip.ReasonBackendError, "no", oip.WithMetadata(oip.MetaModel, long(256<<10))), ErrBackend},
		{"reason", oip.Error(codes.FailedPrecondition, long(256<<10), "no"), ErrModelUnusable},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPeer(t)
			p.infer = func(context.Context, *oip.ModelInferRequest, [][]float32) error { return c.err }
			r := newRecorder(t)
			cfg := p.config()
			cfg.MaxBatch, cfg.Window = 1, 1
			r.open(cfg)
			r.call(ramp(3)...)
			r.await()
			for i, out := range r.outcome {
				text := fmt.Sprint(out.Err)
				if !errors.Is(out.Err, c.is) || len(text) > most || !utf8.ValidString(text) {
					t.Errorf("record %d: an error of %d bytes: %.200s", i, len(text), text)
				}
				for e := out.Err; e != nil; e = errors.Unwrap(e) {
					if len(e.Error()) > most || len(fmt.Sprintf("%+v", e)) > 2*most {
						t.Errorf("record %d wraps an error of %d bytes", i, len(e.Error()))
					}
				}
				if strings.HasPrefix(c.name, "message of 2") && !strings.Contains(text, " ... (cut; it has 2") {
					t.Errorf("record %d: the error does not say how long the text was: %.100s", i, text)
				}
			}
			if _, accepted, _ := p.connections(); accepted != 1 {
				t.Errorf("%d connections", accepted)
			}
		})
	}
}

// A grpc server drops a status that is longer than the connection accepts, and resets the call. A
// proxy may have done that too, so the record waits (A76). The connection survives.
func TestWordsTooLongForTheConnection(t *testing.T) {
	p := newPeer(t)
	var times atomic.Int32
	p.infer = func(context.Context, *oip.ModelInferRequest, [][]float32) error {
		if times.Add(1) > 2 {
			return nil
		}
		return status.Error(codes.InvalidArgument, strings.Repeat("x", 70<<20))
	}
	r := newRecorder(t)
	r.open(p.config())
	r.call(numbers{1})
	r.await()
	r.check()
	if _, accepted, _ := p.connections(); accepted != 1 || r.held != 2 {
		t.Errorf("%d connections, %d holds", accepted, r.held)
	}
}

// Long messages are cut when the channel opens, and on a connection of the user's own.
func TestLongWordsAtOpen(t *testing.T) {
	p := newPeer(t)
	p.meta = func() error { return status.Error(codes.FailedPrecondition, strings.Repeat("x", 2<<20)) }
	_, err := NewAsyncFunction(p.config(), doubling).Open(t.Context(), async.Subtask{}, newRecorder(t))
	if text := fmt.Sprint(err); !errors.Is(err, ErrModelUnusable) || len(text) > 6<<10 || !strings.Contains(text, "it has 2097152 bytes") {
		t.Errorf("an error of %d bytes: %.200s", len(text), text)
	}
}
