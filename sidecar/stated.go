package sidecar

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tensorferry/tensorferry/async"
	"github.com/tensorferry/tensorferry/internal/brief"
	"github.com/tensorferry/tensorferry/sidecar/oip"
)

// Not every server describes a model's inputs and outputs. MLServer and KServe do so only for
// models whose settings name them. The configuration's statement then takes their place.

const stateThem = "name the model's tensors in its settings on the server, or state them in the configuration (infer.tensors in a job file, Config.Signature in Go)"

// complete adds the configuration's statement to metadata that lack inputs or outputs. What the
// metadata do describe must agree with the statement.
func (l *link) complete(meta *oip.ModelMetadataResponse) *Error {
	if l.stated == nil {
		if len(meta.Outputs) > 0 {
			return nil
		}
		missing := "outputs"
		if len(meta.Inputs) == 0 {
			missing = "inputs and outputs"
		}
		e := l.unusable(fmt.Errorf("the server does not describe the %s of the model", missing))
		e.advice = stateThem
		return e
	}
	own := oip.Metadata(l.stated, "")
	var wrong []error
	for _, list := range []struct {
		kind       string
		told       *[]*tensorMetadata
		configured []*tensorMetadata
	}{{"input", &meta.Inputs, own.Inputs}, {"output", &meta.Outputs, own.Outputs}} {
		if len(*list.told) == 0 {
			*list.told = list.configured
			continue
		}
		for _, want := range list.configured {
			i := slices.IndexFunc(*list.told, func(t *tensorMetadata) bool { return t.Name == want.Name })
			switch {
			case i < 0:
				wrong = append(wrong, fmt.Errorf("the configuration states %s %s, and the server has no such %s", list.kind, form(want), list.kind))
			case form((*list.told)[i]) != form(want):
				wrong = append(wrong, fmt.Errorf("the configuration states %s %s, and the server has %s", list.kind, form(want), form((*list.told)[i])))
			}
		}
	}
	if wrong == nil {
		return nil
	}
	err := errors.Join(wrong...)
	return &Error{
		Code: FailedPrecondition, Message: brief.Text(err.Error()), Model: l.name.model, Endpoint: l.name.endpoint,
		Class: async.Permanent, kind: ErrMismatch, cause: err,
	}
}

type tensorMetadata = oip.ModelMetadataResponse_TensorMetadata

// form describes a tensor as server metadata do, with the batch dimension.
func form(t *tensorMetadata) string { return fmt.Sprintf("%s %s%d", t.Name, t.Datatype, t.Shape) }
