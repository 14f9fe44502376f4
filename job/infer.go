package job

import (
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// What the keys of the infer section that a job needs say.
const (
	aModel    = "the model's name"
	aServer   = "where the model server is, such as unix:///run/server.sock or host:port"
	orSidecar = ", unless the job has a sidecar section"
)

// infer reads the infer section. whole says that the model must be there, and the endpoint unless
// the job has a sidecar of its own.
func (d *decoder) infer(v value, whole, ownSidecar bool) Infer {
	s := d.section(v, "endpoint", "model", "version", "order", "key", "capacity", "max_bytes", "timeout", "hold", "max_calls", "retry",
		"on_error", "barrier", "drain_limit", "max_batch", "max_batch_bytes", "window", "max_message", "shared_memory", "shared_memory_min",
		"open_timeout", "reconnect", "idempotent", "inputs", "outputs", "tensors", "overwrite", "tls")
	if whole {
		s.missing("model", aModel)
	}
	if whole && !ownSidecar {
		s.missing("endpoint", aServer+orSidecar)
	}
	i := Infer{
		Endpoint:        s.text("endpoint", aServer),
		Model:           s.text("model", aModel),
		Version:         s.text("version", "the model's version"),
		Order:           Order(s.choice("order", string(OrderOrdered), string(OrderUnordered), string(OrderKeyed))),
		Capacity:        s.count("capacity", 1, maxCapacity),
		MaxBytes:        s.size("max_bytes", 0, 1<<40),
		Timeout:         s.duration("timeout", "none"),
		Hold:            s.duration("hold", ""),
		MaxCalls:        s.count("max_calls", 1, maxCapacity),
		Barrier:         BarrierPolicy(s.choice("barrier", "drain", "snapshot")),
		DrainLimit:      s.duration("drain_limit", "none"),
		MaxBatch:        s.count("max_batch", 1, maxCount),
		MaxBatchBytes:   int(s.size("max_batch_bytes", 1, maxMessage)),
		Window:          s.count("window", 1, maxCount),
		MaxMessage:      int(s.size("max_message", 1<<10, maxMessage)),
		SharedMemory:    int(s.size("shared_memory", 0, 1<<40)),
		SharedMemoryMin: int(s.size("shared_memory_min", 1, maxMessage)),
		OpenTimeout:     s.duration("open_timeout", ""),
		NotIdempotent:   !s.flag("idempotent", true),
		Overwrite:       s.flag("overwrite", false),
	}
	if s.isZero("timeout") {
		i.Timeout = Off
	}
	if !s.has("order") {
		i.Order = OrderOrdered
	}
	if s.has("max_bytes") && i.MaxBytes == 0 {
		i.MaxBytes = int64(Off)
	}
	if v, ok := s.values["key"]; ok {
		i.Key, _ = d.field(v, aField, fieldPath)
	}
	if v, ok := s.values["on_error"]; ok {
		i.OnError = d.onError(v)
	}
	if v, ok := s.values["retry"]; ok {
		i.Retry = d.retry(v)
	}
	if v, ok := s.values["reconnect"]; ok {
		i.Reconnect = d.reconnect(v)
	}
	if v, ok := s.values["inputs"]; ok {
		i.Inputs = tensors(d, v, func(t value) (Field, bool) { return d.field(t, aField, fieldPath) })
	}
	if v, ok := s.values["outputs"]; ok {
		i.Outputs = tensors(d, v, d.output)
		d.distinct(v, i.Outputs)
	}
	if v, ok := s.values["tensors"]; ok {
		i.Tensors = d.tensors(v)
	}
	if v, ok := s.values["tls"]; ok {
		i.TLS = d.tls(v)
	}
	return i
}

func (d *decoder) tls(v value) *TLS {
	t := d.section(v, "ca", "cert", "key", "server_name")
	if t.has("cert") != t.has("key") {
		d.fault(v.at, "%s: want cert and key together, or neither", v.path)
	}
	return &TLS{
		CA:         t.file("ca", "a PEM file"),
		Cert:       t.file("cert", "a PEM file"),
		Key:        t.file("key", "a PEM file"),
		ServerName: t.text("server_name", "a host's name"),
	}
}

func (d *decoder) retry(v value) Retry {
	s := d.section(v, "max", "delay", "multiplier", "max_delay", "jitter", "budget")
	s.missing("max", "how many attempts may follow the first, 0 for none")
	r := Retry{
		Max:        s.count("max", 0, maxCount),
		Delay:      s.duration("delay", ""),
		Multiplier: s.ratio("multiplier", 1, 1000),
		MaxDelay:   s.duration("max_delay", ""),
		Jitter:     s.share("jitter"),
		Budget:     s.count("budget", 0, maxCount),
	}
	if s.isZero("max") {
		r.Max = Off
	}
	if s.isZero("budget") {
		r.Budget = Off
	}
	return r
}

func (d *decoder) reconnect(v value) Reconnect {
	s := d.section(v, "delay", "max_delay", "multiplier", "jitter")
	r := Reconnect{
		Delay:      s.duration("delay", ""),
		MaxDelay:   s.duration("max_delay", ""),
		Multiplier: s.ratio("multiplier", 1, 100),
		Jitter:     s.share("jitter"),
	}
	if r.Jitter != nil && *r.Jitter == 1 { // a delay would be 0
		d.wrong(s.values["jitter"], "a number from 0 to less than 1")
	}
	return r
}

// tensors reads a mapping from the model's tensors.
func tensors[T any](d *decoder, v value, one func(value) (T, bool)) map[string]T {
	before := len(d.faults)
	m := map[string]T{}
	for _, t := range d.names(v, tensorName, "the name of a tensor") {
		if f, ok := one(t); ok {
			m[t.key] = f
		}
	}
	if len(m) == 0 && len(d.faults) == before {
		d.fault(v.at, "%s: want at least one tensor, such as %s", v.path, "name: {field: name}")
	}
	return m
}

// field reads {field: name}.
func (d *decoder) field(v value, want string, valid func(string) bool) (Field, bool) {
	s := d.section(v, "field")
	s.missing("field", want)
	f := s.valid("field", want, valid)
	return Field{f}, f != ""
}

// valid reads a text and checks it.
func (s *section) valid(key, want string, valid func(string) bool) string {
	f := s.text(key, want)
	if f != "" && !valid(f) {
		s.d.wrong(s.values[key], want)
		return ""
	}
	return f
}

// output reads {field: name, nan: string}. Without a field, the output's name is the field.
func (d *decoder) output(v value) (Output, bool) {
	s := d.section(v, "field", "nan")
	if !s.has("nan") {
		s.missing("field", aFieldName)
	}
	o := Output{Field: s.valid("field", aFieldName, fieldName)}
	if !s.has("field") {
		o.Field = v.key
	}
	n, ok := s.values["nan"]
	if _, null := n.node.(*ast.NullNode); ok && !null {
		if o.NaN = NaN(s.choice("nan", "null", string(NaNFail), string(NaNString))); o.NaN == "null" {
			o.NaN = NaNNull
		}
	}
	return o, o.Field != ""
}

// The forms of a field of the record, and of a field of the result.
const (
	aField     = "a field of the record, such as a or a.b"
	aFieldName = "the name of a field of the result, without dots"
)

func fieldPath(f string) bool { return !slices.Contains(strings.Split(f, "."), "") }

func fieldName(f string) bool { return !strings.Contains(f, ".") }

// distinct reports two outputs that would be written to one field.
func (d *decoder) distinct(v value, outputs map[string]Output) {
	first := map[string]string{}
	for _, t := range sortedKeys(outputs) {
		f := outputs[t].Field
		if other, ok := first[f]; ok {
			d.fault(place(d.at, join(v.path, t)+".field"), "%s: the field %q is taken by output %q; want a field of its own",
				join(v.path, t), f, other)
			continue
		}
		first[f] = t
	}
}
