package guard

import (
	"crypto/tls"
	"errors"
	"reflect"
)

// TLS returns a copy of c whose functions' panics are errors of the handshake. They go to broke
// too.
func TLS(c *tls.Config, broke func(error)) *tls.Config {
	if c == nil {
		return nil
	}
	c = c.Clone()
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		name, f := v.Type().Field(i).Name, v.Field(i)
		if f.Kind() != reflect.Func || f.IsNil() || !f.CanSet() {
			continue
		}
		f.Set(reflect.MakeFunc(f.Type(), guarded(name+" of the TLS configuration", reflect.ValueOf(f.Interface()), broke)))
	}
	return c
}

var errorType = reflect.TypeFor[error]()

// guarded calls f apart. Where that fails the results are zero, but for an error.
func guarded(where string, f reflect.Value, broke func(error)) func([]reflect.Value) []reflect.Value {
	t := f.Type()
	last := t.NumOut() - 1
	fails := last >= 0 && t.Out(last) == errorType
	return func(in []reflect.Value) (out []reflect.Value) {
		err := Apart(where, func() error {
			out = f.Call(in)
			if fails {
				err, _ := out[last].Interface().(error)
				return err
			}
			return nil
		})
		if p, ok := errors.AsType[*Panic](err); ok {
			broke(p)
			out = make([]reflect.Value, t.NumOut())
			for i := range out {
				out[i] = reflect.Zero(t.Out(i))
			}
			if fails {
				out[last] = reflect.ValueOf(&err).Elem()
			}
		}
		return out
	}
}
