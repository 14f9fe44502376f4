package job

import (
	"path/filepath"
	"slices"

	"github.com/goccy/go-yaml/ast"
)

// classes of failures, as the file names them.
var classes = []string{"record", "timeout", "overload", "transport", "backend", "permanent"}

const anAction = "fail, drop, dead_letter or {fallback: {field: value}}"

// onError reads what happens to records that fail, by class.
func (d *decoder) onError(v value) map[string]OnError {
	s := d.section(v, classes...)
	m := map[string]OnError{}
	for _, class := range classes {
		if v, ok := s.values[class]; ok {
			m[class] = d.action(v)
		}
	}
	return m
}

func (d *decoder) action(v value) (o OnError) {
	switch n := v.node.(type) {
	case *ast.StringNode:
		if a := Action(n.Value); slices.Contains([]Action{ActionFail, ActionDrop, ActionDeadLetter}, a) {
			o.Action = a
			return o
		}
	case *ast.MappingNode, *ast.MappingValueNode:
		s := d.section(v, "fallback")
		s.missing("fallback", "the fields of the result, such as {digit: -1}")
		if f, ok := s.values["fallback"]; ok {
			o.Action, o.Fields = ActionFallback, d.fallback(f)
		}
		return o
	}
	d.wrong(v, anAction)
	return o
}

// fallback reads the fields that a result gets in place of the model's.
func (d *decoder) fallback(v value) []FallbackField {
	before := len(d.faults)
	values, broken := d.mapping(v, func(name string, at Position) bool {
		if name != "" && fieldName(name) {
			return true
		}
		d.fault(at, "%s: %q is not a valid name; want %s", v.path, name, aFieldName)
		return false
	})
	if broken {
		return nil
	}
	var fields []FallbackField
	for _, name := range sortedKeys(values) {
		fields = append(fields, FallbackField{name, d.json(values[name])})
	}
	slices.SortFunc(fields, func(a, b FallbackField) int {
		return comparePositions(values[a.Name].at, values[b.Name].at)
	})
	if fields == nil && len(d.faults) == before {
		d.fault(v.at, "%s: want at least one field, such as digit: -1", v.path)
	}
	return fields
}

// deadLetter reads where failed records go.
func (d *decoder) deadLetter(v value) *DeadLetter {
	const want = "a folder for the records that failed"
	s := d.one(v, "file", "kafka")
	to := &DeadLetter{}
	if v, ok := s.values["file"]; ok {
		to.File = d.fileSink(v, want)
	}
	if v, ok := s.values["kafka"]; ok {
		to.Kafka = d.kafkaSink(v)
	}
	return to
}

// failures reports conflicts between the actions and the rest of the file.
func (d *decoder) failures(s *Spec) {
	at := func(path string) Position { return place(d.at, path) }
	i := &s.Infer
	letters := false
	for _, class := range classes {
		path := "infer.on_error." + class
		o := i.OnError[class]
		if o.Action == ActionDeadLetter {
			letters = true
			if _, given := d.at["dead_letter"]; !given {
				d.fault(at(path), "%s: dead_letter needs a place for the records; want a section dead_letter: {file: {path: failed}}", path)
			}
		}
	}
	if s.DeadLetter == nil {
		return
	}
	// A class whose action has a fault may have been meant for dead_letter.
	if !letters && !slices.ContainsFunc(classes, func(c string) bool {
		_, given := d.at["infer.on_error."+c]
		return given && i.OnError[c].Action == ""
	}) {
		d.fault(at("dead_letter"), "dead_letter: no failure goes there; want dead_letter for a class of infer.on_error, such as {record: dead_letter}, or no section dead_letter")
	}
	if f, l := s.Sink.File, s.DeadLetter.File; f != nil && l != nil && f.Path != "" && l.Path != "" && filepath.Clean(f.Path) == filepath.Clean(l.Path) {
		d.fault(at("dead_letter.file.path"), "dead_letter.file.path: want another folder than the sink's, %s", l.Path)
	}
}
