// Package callbacks finds, for tests, what the users of a module give to its packages to be called:
// functions and values with methods. It must never know what becomes of them.
package callbacks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

const project = "github.com/tensorferry/tensorferry/"

// List returns the callbacks of the public packages of the module in a folder, sorted, by these
// names:
//
//	connector.Source.Splits    a method of an exported interface
//	sidecar.Config.Observe  a field, of a function, an interface, a logger or a TLS configuration
//	stream.Map(fn)          a parameter of such a type, of a function or a method
//	connector/kafka.Decode  a type of functions
//
// Programs, internal packages, end-to-end tests and the packages in without are left out.
func List(dir string, without ...string) ([]string, error) {
	paths, export, err := packages(dir)
	if err != nil {
		return nil, err
	}
	imports := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) { return os.Open(export[path]) })
	var names []string
	for _, path := range paths {
		if slices.Contains(without, strings.TrimPrefix(path, project)) {
			continue
		}
		p, err := imports.Import(path)
		if err != nil {
			return nil, err
		}
		for _, name := range p.Scope().Names() {
			if o := p.Scope().Lookup(name); o.Exported() {
				names = append(names, of(strings.TrimPrefix(path, project)+"."+name, o)...)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// packages returns the public packages of a module, and where the compiler has left what it knows
// of each, and of all that they import.
func packages(dir string) (public []string, export map[string]string, err error) {
	cmd := exec.Command("go", "list", "-deps", "-export", "-json=ImportPath,Export,Name,Module", "./...")
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, nil, fmt.Errorf("%v: %w\n%s", cmd, err, stderr.String())
	}
	export = map[string]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath, Export, Name string
			Module                   *struct{ Main bool }
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return public, export, nil
		} else if err != nil {
			return nil, nil, err
		}
		export[p.ImportPath] = p.Export
		within := p.ImportPath + "/"
		if p.Module != nil && p.Module.Main && p.Name != "main" && !strings.Contains(within, "/internal/") && !strings.Contains(within, "/integration/") {
			public = append(public, p.ImportPath)
		}
	}
}

// of returns the callbacks of one exported name.
func of(name string, o types.Object) (names []string) {
	params := func(name string, f *types.Signature) {
		for p := range f.Params().Variables() {
			if called(p.Type()) {
				names = append(names, name+"("+p.Name()+")")
			}
		}
	}
	if f, ok := o.(*types.Func); ok {
		params(name, f.Signature())
	}
	t, ok := o.Type().(*types.Named)
	if _, isType := o.(*types.TypeName); !ok || !isType || t.Obj() != o {
		return names
	}
	switch u := t.Underlying().(type) {
	case *types.Interface:
		for m := range u.ExplicitMethods() {
			if m.Exported() {
				names = append(names, name+"."+m.Name())
			}
		}
		return names
	case *types.Signature:
		names = append(names, name)
	case *types.Struct:
		for f := range u.Fields() {
			if f.Exported() && called(f.Type()) {
				names = append(names, name+"."+f.Name())
			}
		}
	}
	for m := range t.Methods() {
		if m.Exported() {
			params(name+"."+m.Name(), m.Signature())
		}
	}
	return names
}

// called reports whether values of a type are there to be called.
func called(t types.Type) bool {
	switch u := types.Unalias(t).(type) {
	case *types.TypeParam:
		return false
	case *types.Slice:
		return called(u.Elem())
	case *types.Map:
		return called(u.Elem())
	case *types.Pointer:
		return slices.Contains([]string{"log/slog.Logger", "crypto/tls.Config"}, u.Elem().String())
	}
	switch u := t.Underlying().(type) {
	case *types.Signature:
		return true
	case *types.Interface:
		for m := range u.Methods() {
			if !m.Exported() && strings.HasPrefix(m.Pkg().Path()+"/", project) {
				return false // no type of a user's has it
			}
		}
		return u.NumMethods() > 0 && !slices.Contains([]string{"context.Context", "error"}, t.String())
	}
	return false
}
