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
		spec.Infer = d.infer(v, true, s.has("sidecar"))
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
