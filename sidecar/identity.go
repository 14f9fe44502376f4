package sidecar

import (
	"fmt"
	"slices"
	"sync"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/brief"
	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// identify checks that an answer belongs to this request, this model and this version, as far as
// the answer names them (A64). What the server leaves out is not compared.
func (c *channel[IN, OUT]) identify(resp *oip.ModelInferResponse, id string) *failure {
	wrong := func(code Code, kind error, class async.Class, advice, format string, args ...any) *failure {
		return &failure{do: failRows, Error: &Error{
			Code: code, Message: brief.Text(fmt.Sprintf(format, args...)), Model: c.name.model, Endpoint: c.name.endpoint, RequestID: id,
			Class: class, kind: kind, advice: advice,
		}}
	}
	const advice = "look at what answers at this endpoint, and at proxies on the way"
	if got := resp.Id; got != "" && got != id && !isUUID(got) {
		return wrong(DataLoss, ErrBadOutput, async.Backend, "the server mixes answers up; "+advice, "the answer is to the request %q", got)
	}
	if got := resp.ModelName; got != "" && got != c.name.model && got != c.link.told.name {
		return wrong(FailedPrecondition, ErrMismatch, async.Permanent, advice, "the answer is of the model %q", got)
	}
	switch got, want := resp.ModelVersion, c.cfg.Version; {
	case got == "":
	case want == "":
		c.noteVersion(got)
	case got != want:
		return wrong(FailedPrecondition, ErrMismatch, async.Permanent, advice, "the answer is of version %q of the model, and %q was asked for", got, want)
	}
	return nil
}

// isUUID reports whether the server made up the id, as KServe's models do. Such an id does not name
// a request: the client's ids contain a slash.
func isUUID(id string) bool {
	if len(id) != 36 {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case c-'0' > 9 && c|0x20-'a' > 5:
			return false
		}
	}
	return true
}

// versions holds the model versions that have answered, if the configuration leaves the choice to
// the server. Several versions may alternate, for example during a rolling update.
type versions struct {
	mu   sync.Mutex
	last string
	seen []string
}

// noteVersion logs, once for each version, that another version answers, and has the server asked
// whether that version takes and returns the same tensors.
func (c *channel[IN, OUT]) noteVersion(version string) {
	v := &c.versions
	v.mu.Lock()
	before := v.last
	fresh := before != version && len(v.seen) < maxVersions && !slices.Contains(v.seen, version)
	v.last = version
	if fresh {
		v.seen = append(v.seen, version)
	}
	v.mu.Unlock()
	if fresh && before != "" {
		c.log.Warn("sidecar: another version of the model answers; to stay with one, name it in the configuration",
			"endpoint", c.name.endpoint, "model", c.name.model, "version", version, "before", before)
		c.accuse(nil)
	}
}

// maxVersions bounds the memory for a server that names another version each time.
const maxVersions = 64
