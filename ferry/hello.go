package ferry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/inference"
)

// hello is the payload of HELLO.
type hello struct {
	Version     int             `json:"version"`
	Client      string          `json:"client"`
	Job         string          `json:"job"`
	Operator    string          `json:"operator"`
	Subtask     int             `json:"subtask"`
	Parallelism int             `json:"parallelism"`
	Form        string          `json:"form"`
	Infer       json.RawMessage `json:"infer"`
}

// The values of hello.Form.
const (
	formRows = "rows"
	formJSON = "json"
)

// plan is what a connection asks for, checked.
type plan struct {
	hello
	spec *job.Spec
	cfg  async.Config
	// onError is what the client asks for. The operator itself sends every failed record out.
	onError async.OnError
}

// readHello checks the payload of HELLO.
func readHello(payload []byte) (*plan, error) {
	var p plan
	if !utf8.Valid(payload) {
		return nil, errors.New("HELLO is not UTF-8; want one JSON object")
	}
	if err := json.Unmarshal(payload, &p.hello); err != nil {
		return nil, fmt.Errorf("HELLO is not the JSON object that it must be: %w", err)
	}
	h := &p.hello
	switch {
	case h.Version < 1:
		return nil, fmt.Errorf("HELLO: version is %d; want 1 or more", h.Version)
	case h.Form != formRows && h.Form != formJSON:
		return nil, fmt.Errorf("HELLO: form is %q; want %q or %q", h.Form, formRows, formJSON)
	case h.Parallelism < 1 || h.Subtask < 0 || h.Subtask >= h.Parallelism:
		return nil, fmt.Errorf("HELLO: subtask %d of parallelism %d; want 0 to parallelism - 1", h.Subtask, h.Parallelism)
	case len(bytes.TrimSpace(h.Infer)) == 0:
		return nil, errors.New("HELLO: infer is missing; want the keys of a job file's section infer")
	}
	for name, text := range map[string]*string{"client": &h.Client, "job": &h.Job, "operator": &h.Operator} {
		if len(*text) > 256 {
			return nil, fmt.Errorf("HELLO: %s has %d bytes; want at most 256", name, len(*text))
		}
	}
	if h.Operator == "" {
		h.Operator = "infer"
	}
	spec, err := job.ParseInfer("HELLO", h.Infer)
	if err != nil {
		return nil, err
	}
	p.spec = spec
	if err := p.check(); err != nil {
		return nil, err
	}
	if p.cfg, err = inference.OperatorConfig(spec); err != nil {
		return nil, err
	}
	p.onError = p.cfg.OnError
	for _, a := range []*async.Action{&p.cfg.OnError.Backend, &p.cfg.OnError.BadRecord, &p.cfg.OnError.Timeout,
		&p.cfg.OnError.Overload, &p.cfg.OnError.Transport, &p.cfg.OnError.Permanent} {
		if *a != async.Fallback {
			*a = async.DeadLetter
		}
	}
	// There are no barriers, so nothing forbids calls without a timeout.
	p.cfg.Barrier = async.Snapshot
	p.cfg, err = p.cfg.Resolve()
	return &p, err
}

// check refuses what belongs to the other side or to the ferry.
func (p *plan) check() error {
	i := &p.spec.Infer
	refused := func(key, why string) error { return p.spec.Fault("infer."+key, "not taken by a ferry; %s", why) }
	switch {
	case p.spec.Has("infer.key"):
		return refused("key", "each CALL has its key")
	case i.Barrier != job.BarrierDefault:
		return refused("barrier", "checkpoints are the client's")
	case i.DrainLimit != 0:
		return refused("drain_limit", "checkpoints are the client's")
	case i.TLS != nil:
		return refused("tls", "the ferry has certificates of its own")
	case p.spec.Has("infer.shared_memory"):
		return refused("shared_memory", "the memory is the ferry's own")
	case p.spec.Has("infer.order") && i.Order == job.OrderOrdered:
		return p.spec.Fault("infer.order", "want unordered or keyed, found ordered; the order of all results is the client's")
	}
	if !p.spec.Has("infer.order") {
		i.Order = job.OrderUnordered
	}
	if p.Form == formJSON {
		return nil
	}
	for _, key := range []string{"inputs", "outputs", "overwrite"} {
		if p.spec.Has("infer." + key) {
			return refused(key, `a row has all inputs in the signature's order; it is for the form "json"`)
		}
	}
	for class, e := range i.OnError {
		if e.Action == job.ActionFallback {
			return refused("on_error."+class, `fallback is for the form "json"`)
		}
	}
	return nil
}
