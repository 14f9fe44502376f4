package job

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Bounds of the file's numbers. They are far above any sensible value, and below what would
// overflow, or exhaust the machine before the first record.
const (
	maxParallelism = 1024
	maxCapacity    = 1 << 24
	maxCount       = 1_000_000
	maxMessage     = 2<<30 - 1 // the largest message that gRPC can frame
)

var (
	jobName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	modelName = regexp.MustCompile(`^[^\s/][^\s/]{0,255}$`)
	// A model's tensor names may contain slashes and colons.
	tensorName = regexp.MustCompile(`^\S(.{0,254}\S)?$`)
	optionName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{0,63}$`)
	// A backend's name before a location. A single letter would be a drive.
	scheme = regexp.MustCompile(`^[a-z0-9+.-]{2,}:`)
)

func (d *decoder) spec(v value) *Spec {
	s := d.section(v, "name", "parallelism", "source", "infer", "sink", "dead_letter", "checkpoint", "restart", "sidecar", "stop_timeout", "log", "trace")
	s.missing("name", "the job's name")
	s.missing("source", "file, stdin or kafka")
	s.missing("infer", "the model that answers")
	s.missing("sink", "file, stdout or kafka")
	spec := &Spec{
		Name:        s.text("name", "the job's name"),
		Parallelism: s.count("parallelism", 1, maxParallelism),
		StopTimeout: s.duration("stop_timeout", ""),
	}
	if spec.Parallelism == 0 {
		spec.Parallelism = 1
	}
	if spec.StopTimeout == 0 {
		spec.StopTimeout = DefaultStopTimeout
	}
	if spec.Name != "" && !jobName.MatchString(spec.Name) {
		d.wrong(s.values["name"], `a name of at most 64 letters, digits, ".", "_" and "-"`)
	}
	if v, ok := s.values["source"]; ok {
		spec.Source = d.source(v)
	}
	if v, ok := s.values["infer"]; ok {
		spec.Infer = d.infer(v, s.has("sidecar"))
	}
	if v, ok := s.values["sink"]; ok {
		spec.Sink = d.sink(v)
	}
	if v, ok := s.values["dead_letter"]; ok {
		spec.DeadLetter = d.deadLetter(v)
	}
	if v, ok := s.values["checkpoint"]; ok {
		spec.Checkpoint = d.checkpoint(v)
	}
	if v, ok := s.values["restart"]; ok {
		spec.Restart = d.restart(v)
	}
	if v, ok := s.values["sidecar"]; ok {
		spec.Sidecar = d.sidecar(v)
	}
	if v, ok := s.values["log"]; ok {
		l := d.section(v, "level", "format")
		spec.Log = Log{
			Level:  l.choice("level", "debug", "info", "warn", "error"),
			Format: l.choice("format", "text", "json"),
		}
	}
	if v, ok := s.values["trace"]; ok {
		spec.Trace = d.trace(v)
	}
	d.together(spec)
	return spec
}

// one reads a section that must have exactly one of the known keys.
func (d *decoder) one(v value, known ...string) *section {
	if n, ok := v.node.(*ast.StringNode); ok && slices.Contains(known, n.Value) {
		d.fault(position(v.node), "%s: want a mapping, such as {%s: {}}", v.path, n.Value)
		return &section{d: d, v: v, broken: true}
	}
	s := d.section(v, known...)
	given := slices.DeleteFunc(slices.Clone(known), func(k string) bool { return !s.has(k) })
	switch {
	case s.broken:
	case len(given) == 0:
		d.fault(v.at, "%s: want %s", v.path, oneOf(known))
	case len(given) > 1:
		d.fault(v.at, "%s: want one of %s, found %s", v.path, strings.Join(known, ", "), strings.Join(given, " and "))
	}
	return s
}

func (d *decoder) source(v value) (src Source) {
	s := d.one(v, "file", "stdin", "kafka")
	if v, ok := s.values["file"]; ok {
		f := d.section(v, "path", "split_size", "max_line")
		f.missing("path", "a file, a pattern, or a list of them")
		src.File = &FileSource{
			SplitSize: f.size("split_size", 1, 1<<40),
			MaxLine:   int(f.size("max_line", 1, 1<<30)),
		}
		if p, ok := f.values["path"]; ok {
			all := elements(p)
			if len(all) == 0 {
				d.fault(p.at, "%s: want a file, a pattern, or a list of them, found an empty list", p.path)
			}
			for _, e := range all {
				if t := d.text(e, "a file, a pattern, or a list of them"); t != "" {
					src.File.Paths = append(src.File.Paths, d.resolve(t))
				}
			}
		}
	}
	if v, ok := s.values["stdin"]; ok {
		f := d.section(v, "max_line")
		src.Stdin = &StdinSource{
			MaxLine: int(f.size("max_line", 1, 1<<30)),
		}
	}
	if v, ok := s.values["kafka"]; ok {
		src.Kafka = d.kafkaSource(v)
	}
	return src
}

func (d *decoder) infer(v value, ownSidecar bool) Infer {
	s := d.section(v, "endpoint", "model", "version", "order", "key", "capacity", "max_bytes", "timeout", "hold", "max_calls", "retry",
		"on_error", "barrier", "drain_limit", "max_batch", "max_batch_bytes", "window", "max_message", "shared_memory", "shared_memory_min",
		"open_timeout", "reconnect", "idempotent", "inputs", "outputs", "tensors", "overwrite", "tls")
	s.missing("model", "the model's name")
	if !ownSidecar {
		s.missing("endpoint", "where the model server is, such as unix:///run/server.sock or host:port, unless the job has a sidecar section")
	}
	i := Infer{
		Endpoint:        s.text("endpoint", "where the model server is, such as unix:///run/server.sock or host:port"),
		Model:           s.text("model", "the model's name"),
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

func (d *decoder) sink(v value) (sink Sink) {
	s := d.one(v, "file", "stdout", "kafka")
	if v, ok := s.values["file"]; ok {
		sink.File = d.fileSink(v, "a folder for the results")
	}
	if v, ok := s.values["stdout"]; ok {
		d.section(v)
		sink.Stdout = true
	}
	if v, ok := s.values["kafka"]; ok {
		sink.Kafka = d.kafkaSink(v)
	}
	return sink
}

func (d *decoder) fileSink(v value, want string) *FileSink {
	f := d.section(v, "path", "consumed")
	f.missing("path", want)
	return &FileSink{Path: f.file("path", want), Consumed: f.flag("consumed", false)}
}

func (d *decoder) checkpoint(v value) Checkpoint {
	s := d.section(v, "interval", "timeout", "min_pause", "tolerable_failures", "retain", "dir")
	return Checkpoint{
		Interval:          s.duration("interval", ""),
		Timeout:           s.duration("timeout", ""),
		MinPause:          s.duration("min_pause", "none"),
		TolerableFailures: s.count("tolerable_failures", 0, maxCount),
		Retain:            s.count("retain", 1, maxCount),
		Dir:               s.file("dir", "a folder for the checkpoints"),
	}
}

// strategies and the keys that belong to each.
var strategies = map[string][]string{
	"none":              {},
	"fixed-delay":       {"attempts", "delay"},
	"failure-rate":      {"max_failures", "interval", "delay"},
	"exponential-delay": {"initial_delay", "max_delay", "multiplier", "jitter", "reset_after", "attempts"},
}

func (d *decoder) restart(v value) Restart {
	all := []string{"strategy", "attempts", "delay", "max_failures", "interval", "initial_delay", "max_delay", "multiplier", "jitter", "reset_after"}
	s := d.section(v, all...)
	words := []string{"none", "fixed-delay", "failure-rate", "exponential-delay"}
	s.missing("strategy", oneOf(words))
	r := Restart{
		Strategy:     s.choice("strategy", words...),
		Attempts:     s.count("attempts", 1, maxCount),
		Delay:        s.duration("delay", ""),
		MaxFailures:  s.count("max_failures", 1, maxCount),
		Interval:     s.duration("interval", ""),
		InitialDelay: s.duration("initial_delay", ""),
		MaxDelay:     s.duration("max_delay", ""),
		Multiplier:   s.ratio("multiplier", 1, 1000),
		ResetAfter:   s.duration("reset_after", ""),
		Jitter:       s.share("jitter"),
	}
	mine, known := strategies[r.Strategy]
	for _, k := range all[1:] {
		if s.has(k) && known && !slices.Contains(mine, k) {
			has := "which has no parameters"
			if len(mine) > 0 {
				has = "which has " + strings.Join(mine, ", ")
			}
			d.fault(s.values[k].at, "%s: not a parameter of strategy %s, %s", s.values[k].path, r.Strategy, has)
		}
	}
	return r
}

func (d *decoder) sidecar(v value) *Sidecar {
	s := d.section(v, "models", "max_batch", "max_batch_delay", "queue_rows", "queue_bytes", "queue_timeout")
	s.missing("models", "the models to serve, such as name: file.onnx")
	c := &Sidecar{
		Models:        map[string]Model{},
		MaxBatch:      s.count("max_batch", 1, maxCount),
		MaxBatchDelay: s.duration("max_batch_delay", ""),
		QueueRows:     s.count("queue_rows", 1, maxCapacity),
		QueueBytes:    s.size("queue_bytes", 1<<10, 1<<40),
		QueueTimeout:  s.duration("queue_timeout", ""),
	}
	models, ok := s.values["models"]
	if !ok {
		return c
	}
	before := len(d.faults)
	for _, m := range d.names(models, modelName, "a model's name without spaces and slashes") {
		c.Models[m.key] = d.model(m)
	}
	if len(c.Models) == 0 && len(d.faults) == before {
		d.fault(models.at, "%s: want at least one model, such as name: file.onnx", models.path)
	}
	return c
}

// model reads "name: file", or the long form with options.
func (d *decoder) model(v value) (m Model) {
	switch v.node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		s := d.section(v, "file", "options")
		s.missing("file", "the model's file")
		m.Location = s.text("file", "the model's file")
		if o, ok := s.values["options"]; ok {
			m.Options = map[string]string{}
			for _, e := range d.names(o, optionName, "the name of an option") {
				m.Options[e.key] = d.scalar(e)
			}
		}
	default:
		m.Location = d.text(v, "the model's file, or a mapping with file and options")
	}
	if m.Location != "" && !scheme.MatchString(m.Location) && !filepath.IsAbs(m.Location) {
		// A question mark begins the options, so one in a folder's name is escaped.
		m.Location = filepath.Join(strings.ReplaceAll(d.dir, "?", "%3F"), m.Location)
	}
	return m
}

// scalar reads a text, number or truth value as text.
func (d *decoder) scalar(v value) string {
	switch n := v.node.(type) {
	case *ast.StringNode:
		return n.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return strings.TrimSpace(n.GetToken().Value)
	}
	d.wrong(v, "a text, a number, true or false")
	return ""
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
