package submit

import (
	"errors"
	"strings"
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tensorferry/tensorferry/flink/internal/jobserver"
)

// Whatever Flink's exceptions hold, what is said of them is short.
func TestLongExceptions(t *testing.T) {
	long := strings.Repeat("x", 256<<10)
	failed := status.Error(codes.Internal, long)
	short := func(step string, err error) {
		t.Helper()
		if err == nil || len(err.Error()) > 5<<10 || !strings.Contains(err.Error(), " ... (cut; it has 262") {
			t.Errorf("%s: an error of %d bytes", step, len(err.Error()))
		}
	}
	for step, script := range map[string]jobserver.Script{"prepare": {Prepare: failed}, "stage": {Stage: failed}, "run": {Run: failed}} {
		s := jobserver.Start(t, script)
		_, err := submit(t.Context(), pipeline(), Options{Name: "digits", JobServer: s.Address, WorkerPool: "127.0.0.1:1"}, answerTimeout)
		short(step, err)
	}
	j, _ := submitted(t, jobserver.Script{Watch: failed}, Options{})
	short("watch", j.Wait(t.Context(), quiet))
	j, _ = submitted(t, jobserver.Script{End: jobpb.JobState_FAILED, Messages: []string{long}}, Options{})
	err := j.Wait(t.Context(), quiet)
	short("failed", err)
	if _, ok := errors.AsType[*FailedError](err); !ok {
		t.Errorf("%T", err)
	}
}
