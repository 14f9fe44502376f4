package backend

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
)

// Location says where a model is and how to load it.
type Location struct {
	// Scheme names the kind of backend, as "mock" in mock:double. Empty: the file's extension
	// decides.
	Scheme string
	// Path is what the loader loads, often the path of a file.
	Path string
	// Options are the loader's own options, by name. Nil: none.
	Options url.Values
}

// ParseLocation reads [SCHEME:]PATH[?OPTION=VALUE&...]. Options are written as in the query of a
// URL, except that a plus sign stands for itself. In the name of a file, write a question mark as
// %3F.
func ParseLocation(s string) (Location, error) {
	var loc Location
	rest := s
	if scheme, after, ok := strings.Cut(s, ":"); ok && isScheme(scheme) {
		loc.Scheme, rest = scheme, after
	}
	p, query, hasQuery := strings.Cut(rest, "?")
	loc.Path = strings.ReplaceAll(strings.ReplaceAll(p, "%3F", "?"), "%3f", "?")
	if loc.Path == "" {
		return Location{}, fmt.Errorf("model location %q: it names no file or function", s)
	}
	if hasQuery {
		options, err := url.ParseQuery(strings.ReplaceAll(query, "+", "%2B"))
		if err != nil {
			return Location{}, fmt.Errorf("model location %q: the options after the question mark: %w", s, err)
		}
		loc.Options = options
	}
	return loc, nil
}

// isScheme reports whether s may be a scheme. A single letter is not one: it is a drive of Windows,
// as in C:\models.
func isScheme(s string) bool {
	return len(s) > 1 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789+-.") == ""
}

// CheckOptions returns an error if an option is not among the known ones. The error names that
// option and lists the known ones.
func (l Location) CheckOptions(known ...string) error {
	for _, name := range slices.Sorted(maps.Keys(l.Options)) {
		if !slices.Contains(known, name) {
			return fmt.Errorf("unknown option %q; known are %s", name, strings.Join(known, ", "))
		}
	}
	return nil
}

// Registry says which loader loads which model. The program fills it before use: no package
// registers itself.
type Registry struct {
	// Schemes are the loaders by the scheme of a location, such as "mock".
	Schemes map[string]Loader
	// Extensions are the loaders for locations without a scheme, by the extension of the file, with
	// its dot and in lower case, such as ".onnx".
	Extensions map[string]Loader
}

// Loader returns the loader for loc. If there is none, the error lists the kinds of backend.
func (r Registry) Loader(loc Location) (Loader, error) {
	if loc.Scheme != "" {
		if l, ok := r.Schemes[loc.Scheme]; ok {
			return l, nil
		}
		return nil, fmt.Errorf("no backend for %q; this program has %s", loc.Scheme+":", r)
	}
	ext := strings.ToLower(path.Ext(loc.Path))
	if l, ok := r.Extensions[ext]; ok {
		return l, nil
	}
	return nil, fmt.Errorf("no backend for a file with the extension %q (%s); this program has %s", ext, loc.Path, r)
}

// Load parses the location and loads the model.
func (r Registry) Load(ctx context.Context, location string) (Model, error) {
	loc, err := ParseLocation(location)
	if err != nil {
		return nil, err
	}
	l, err := r.Loader(loc)
	if err != nil {
		return nil, err
	}
	m, err := l.Load(ctx, loc)
	if err != nil {
		return nil, fmt.Errorf("model location %q: %w", location, err)
	}
	return m, nil
}

// String lists the kinds of backend.
func (r Registry) String() string {
	var kinds []string
	for _, s := range slices.Sorted(maps.Keys(r.Schemes)) {
		kinds = append(kinds, s+":")
	}
	for _, e := range slices.Sorted(maps.Keys(r.Extensions)) {
		kinds = append(kinds, "*"+e)
	}
	if len(kinds) == 0 {
		return "none"
	}
	return strings.Join(kinds, ", ")
}
