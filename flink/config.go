package flink

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/tensorferry/tensorferry/async"
)

// Config says how the operator runs on Flink. Zero fields take the documented defaults.
type Config struct {
	// Name is the transform's name in the pipeline and in messages. Default "infer".
	Name string
	// Async is the operator's configuration. Its Order is that of the results of a subtask within a
	// bundle. async.Keyed is refused, because Flink partitions by key only for operators with keyed
	// state. Barrier must be empty or async.Drain, and DrainLimit zero, because calls in flight
	// at a barrier could not be stored in the checkpoint. Tracer must be nil, because it cannot
	// travel to the workers.
	Async async.Config
}

// resolve checks the configuration.
func (c Config) resolve() (Config, error) {
	if c.Name == "" {
		c.Name = "infer"
	}
	switch {
	case c.Async.Order == async.Keyed:
		return c, fmt.Errorf("flink: %s: the order is keyed; on Flink want ordered or unordered", c.Name)
	case c.Async.Barrier == async.Snapshot || c.Async.DrainLimit != 0:
		return c, fmt.Errorf("flink: %s: records in flight cannot go into a checkpoint of Flink; want the drain policy, without a limit", c.Name)
	case c.Async.Tracer != nil:
		return c, fmt.Errorf("flink: %s: a Tracer cannot travel to the workers; want none", c.Name)
	}
	c.Async.Barrier = async.Drain
	if _, err := c.Async.Resolve(); err != nil {
		return c, fmt.Errorf("flink: %s: %w", c.Name, err)
	}
	return c, nil
}

// Maker makes the function on the worker. A Maker travels there as the JSON of its exported fields,
// so it has no fields of function or interface types. Files that it names must exist on every
// worker.
type Maker[IN, OUT any] interface {
	// Function returns the function of one subtask. It is called again after each restart.
	Function() (async.Function[IN, OUT], error)
}

// shipment is the form in which a transform of this package travels. It has texts only, because
// Beam inspects the field types of a transform that is registered, and panics over types that its
// own formats lack.
type shipment struct{ Maker, Config string }

// pack makes a shipment, and checks that the maker survives the trip unchanged.
func pack[M any](m M, c Config) (shipment, error) {
	maker, err := travels(m)
	if err != nil {
		return shipment{}, err
	}
	config, err := json.Marshal(c)
	if err != nil {
		return shipment{}, fmt.Errorf("flink: %s: the configuration cannot be written as JSON: %w", c.Name, err)
	}
	return shipment{maker, string(config)}, nil
}

func unpack[M any](s shipment) (m M, c Config, err error) {
	err = errors.Join(json.Unmarshal([]byte(s.Maker), &m), json.Unmarshal([]byte(s.Config), &c))
	return m, c, err
}

// travels returns a maker's JSON, from which the same maker can be made.
func travels[M any](m M) (string, error) {
	// Through its address, so that it has a kind even if it is nil.
	v := reflect.ValueOf(&m).Elem()
	if k := v.Kind(); (k == reflect.Pointer || k == reflect.Interface) && v.IsNil() {
		return "", fmt.Errorf("flink: the %v is nil; want a maker", v.Type())
	}
	text, err := json.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("flink: %T cannot be written as JSON: %w", m, err)
	}
	var again M
	if err := json.Unmarshal(text, &again); err != nil {
		return "", fmt.Errorf("flink: %T cannot be read from its own JSON: %w", m, err)
	}
	second, err := json.Marshal(again)
	if err == nil && string(second) != string(text) {
		err = fmt.Errorf("its JSON is %.200s, and %.200s after it was read", text, second)
	}
	if err == nil {
		t := reflect.TypeFor[M]()
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		err = leftOut(v, t.PkgPath(), "")
	}
	if err != nil {
		return "", fmt.Errorf("flink: %T would reach the workers changed: %w", m, err)
	}
	return string(text), nil
}

// leftOut looks for what JSON omits silently: fields that are unexported or tagged "-", and the
// types behind interfaces. Structs of other packages than the maker's are trusted to define their
// own JSON. path names v within the maker.
func leftOut(v reflect.Value, pkg, path string) error {
	if v.CanInterface() {
		if _, ok := v.Interface().(json.Marshaler); ok {
			return nil
		}
	}
	switch v.Kind() {
	case reflect.Interface:
		if !v.IsNil() {
			return fmt.Errorf("%s is an interface; want a type that can be read from JSON", path)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			return leftOut(v.Elem(), pkg, path)
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if err := leftOut(v.Index(i), pkg, path); err != nil {
				return err
			}
		}
	case reflect.Map:
		for _, element := range v.Seq2() {
			if err := leftOut(element, pkg, path); err != nil {
				return err
			}
		}
	case reflect.Struct:
		if v.Type().PkgPath() != pkg {
			return nil
		}
		for f, field := range v.Fields() {
			name := strings.TrimPrefix(path+"."+f.Name, ".")
			if (!f.IsExported() && !f.Anonymous || f.Tag.Get("json") == "-") && !field.IsZero() {
				return fmt.Errorf("%s is not part of the JSON; want an exported field without the tag \"-\", or an empty one", name)
			}
			if f.IsExported() || f.Anonymous {
				if err := leftOut(field, pkg, name); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
