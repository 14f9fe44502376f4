package local

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/job/inference"
	"github.com/tensorferry/tensorferry/stream/checkpoint"
)

// placeNames are the names of the properties that say where a job reads and writes.
var placeNames = []string{"source", "sink", "dead letters"}

// onErrorName is the prefix of the names of the properties about failures.
const onErrorName = "on_error "

// identity returns what a run and its resumption must have in common: what the results depend on,
// and where they go. The source itself checks that its files are unchanged. An optional property
// that the job does not have is left out.
func identity(spec *job.Spec) []checkpoint.Property {
	i := &spec.Infer
	source := "standard input"
	if f := spec.Source.File; f != nil {
		source = strings.Join(f.Paths, ", ")
	}
	if k := spec.Source.Kafka; k != nil {
		source = "Kafka " + strings.Join(k.Topics, ", ") + k.Pattern
	}
	all := []checkpoint.Property{
		{Name: "source", Value: source},
		{Name: "order", Value: string(i.Order)},
		{Name: "model", Value: i.Model},
		{Name: "version", Value: i.Version},
		{Name: "fields", Value: inference.Mapping(i).String()},
		{Name: "overwrite", Value: fmt.Sprint(i.Overwrite)},
		{Name: "sink", Value: SinkPlace(spec)},
	}
	if k := spec.Source.Kafka; k != nil && k.Meta != "" {
		all = append(all, checkpoint.Property{Name: "meta", Value: k.Meta})
	}
	if i.Order == job.OrderKeyed {
		all = append(all, checkpoint.Property{Name: "key", Value: i.Key.Field})
	}
	for class := async.Backend; class <= async.Permanent; class++ {
		o := i.OnError[class.String()]
		value := string(o.Action)
		switch o.Action {
		case "", job.ActionFail:
			continue
		case job.ActionFallback:
			var b bytes.Buffer
			for _, f := range o.Fields {
				fmt.Fprintf(&b, " %q: %s", f.Name, f.Value)
			}
			value += b.String()
		}
		all = append(all, checkpoint.Property{Name: onErrorName + class.String(), Value: value})
	}
	if spec.DeadLetter != nil {
		all = append(all, checkpoint.Property{Name: "dead letters", Value: LettersPlace(spec)})
	}
	return all
}

// mended returns the checkpoint with the properties that changed since, where the change cannot
// contradict the results so far. A class of failures that ended the job may now have another
// action: there was no such failure before the checkpoint, or the job would have ended. At
// checkpoint 0 a run has no results, so everything may change except where it reads and writes.
func mended(was *checkpoint.Snapshot, now []checkpoint.Property) *checkpoint.Snapshot {
	is := *was
	is.Identity = slices.Clone(was.Identity)
	if was.ID == 0 {
		is.Identity = slices.Clone(now)
		for i, p := range is.Identity {
			if at := slices.IndexFunc(was.Identity, func(q checkpoint.Property) bool { return q.Name == p.Name }); slices.Contains(placeNames, p.Name) && at >= 0 {
				is.Identity[i] = was.Identity[at]
			}
		}
	}
	for _, p := range now {
		named := func(q checkpoint.Property) bool { return q.Name == p.Name }
		if strings.HasPrefix(p.Name, onErrorName) && !slices.ContainsFunc(was.Identity, named) {
			is.Identity = append(is.Identity, p)
		}
	}
	return &is
}

// SinkPlace returns the name of the place where the results go, for messages.
func SinkPlace(spec *job.Spec) string {
	if spec.Sink.Stdout {
		return "standard output"
	}
	if k := spec.Sink.Kafka; k != nil {
		return "the topic " + k.Topic
	}
	return spec.Sink.File.Path
}
