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

// placeNames are the properties that say where a job reads and writes.
var placeNames = []string{"source", "sink", "dead letters"}

// onErrorName begins the names of the properties that say what becomes of failures.
const onErrorName = "on_error "

// identity is what a run and its resumption must have in common: what the results depend on,
// and where they go. Whether the files of the source are still what they were is the source's own
// to say. What a job need not have is left out where it has none.
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

// mended returns the checkpoint as the job with these properties would have written it, where the
// job has been told what to do about failures that would have ended it. There were none, or there
// would be no such checkpoint, so the results are those of a run that was told at once. Where a run
// has got no further than its beginning, it has no results, and all may be mended but where it
// reads and writes.
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
