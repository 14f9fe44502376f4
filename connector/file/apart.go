package file

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tensorferry/tensorferry/connector"
)

// Folder writes files into a folder. A Sink, a checkpoint.Store and an Output are Folders.
type Folder interface {
	// Dir returns the folder. It need not exist yet.
	Dir() string
	// Files returns the names that the files have or will have, relative to Dir, as patterns of
	// filepath.Match.
	Files() []string
}

// Output is a Folder that consists of its path and the names in it.
type Output struct {
	Path  string
	Names []string
}

// Dir implements Folder.
func (o Output) Dir() string { return o.Path }

// Files implements Folder.
func (o Output) Files() []string { return o.Names }

// Dir implements Folder.
func (s *Sink[T]) Dir() string { return s.config.Dir }

// Files implements Folder. The files are published parts, pending parts and the lock.
func (s *Sink[T]) Files() []string {
	return []string{partPrefix + "[0-9a-z]*[0-9]-[0-9a-z]*[0-9]" + partSuffix, pendingPrefix + "*" + partSuffix, lockName}
}

// written returns the file that standard output is, if it is one.
func (s *Stdout[T]) written() os.FileInfo {
	c, _ := s.config.resolve()
	f, ok := c.Output.(*os.File)
	if !ok {
		return nil
	}
	return regular(f)
}

func regular(f *os.File) os.FileInfo {
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		return info
	}
	return nil
}

// outputs are the places where a job writes files.
type outputs struct {
	places []place
	stdout []os.FileInfo
	// there holds the files that already exist in the places. known says that it is filled.
	there fileSet
	known bool
	// real are folders without the links in their paths.
	real map[string]string
}

// place is a folder and the names in it. base is the folder itself, or the nearest one above it
// that exists. real is base without links. The names are relative to base.
type place struct {
	dir, base, real string
	info            os.FileInfo
	names           [][]element
}

func outputsOf(own []any) (o outputs, err error) {
	for _, w := range own {
		switch w := w.(type) {
		case interface{ written() os.FileInfo }:
			if info := w.written(); info != nil {
				o.stdout = append(o.stdout, info)
			}
		case Folder:
			p, err := placeOf(w)
			if err != nil {
				return o, err
			}
			if p.info != nil {
				o.places = append(o.places, p)
			}
		}
	}
	return o, nil
}

func placeOf(f Folder) (p place, err error) {
	if p.dir = f.Dir(); p.dir == "" {
		return p, nil // the sink itself will report that
	}
	if p.base, err = filepath.Abs(p.dir); err != nil {
		return p, fmt.Errorf("file: %w", err)
	}
	var rest []element
	for {
		if p.info, err = os.Stat(p.base); err == nil {
			break
		}
		above := filepath.Dir(p.base)
		if above == p.base {
			return p, nil
		}
		rest = append([]element{literalElement(filepath.Base(p.base))}, rest...)
		p.base = above
	}
	if p.real, err = filepath.EvalSymlinks(p.base); err != nil {
		return p, fmt.Errorf("file: %w", err)
	}
	for _, name := range f.Files() {
		_, elems, err := parsePattern(name)
		if err != nil {
			return p, fmt.Errorf("file: the name %s: %w", name, err)
		}
		p.names = append(p.names, append(rest[:len(rest):len(rest)], elems...))
	}
	return p, nil
}

// writes reports whether rest, the rest of a pattern that is looked for in folder, matches a name
// in the place.
func (p *place) writes(folder os.FileInfo, rest []element) bool {
	if !os.SameFile(folder, p.info) {
		return false
	}
	for _, name := range p.names {
		if pathsMeet(rest, name) {
			return true
		}
	}
	return false
}

// writes reports whether a file is, or will be, written by the job, however it is named.
func (o *outputs) writes(ctx context.Context, f found) bool {
	// f may be a link to such a file.
	if o.holds(o.realPath(f.path)) {
		return true
	}
	// Or it may be another name of such a file.
	_, names := inode(f.info)
	return names > 1 && o.has(ctx, f.info)
}

func (o *outputs) isStdout(info os.FileInfo) bool {
	return slices.ContainsFunc(o.stdout, func(out os.FileInfo) bool { return os.SameFile(out, info) })
}

// has reports whether a file is one of those that already exist in the places.
func (o *outputs) has(ctx context.Context, info os.FileInfo) bool {
	if !o.known {
		o.known = true
		w := walk{ctx: ctx, file: func(path string) {
			if info, err := os.Stat(path); err == nil {
				o.there.add(found{path, info})
			}
		}}
		for _, p := range o.places {
			for _, name := range p.names {
				_ = w.from(p.base, name) // files that cannot be looked at are not compared
			}
		}
	}
	_, ok := o.there.has(info)
	return ok
}

// realPath returns the path of a file without links.
func (o *outputs) realPath(path string) string {
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
	}
	dir := filepath.Dir(path)
	real, ok := o.real[dir]
	if !ok {
		var err error
		if real, err = filepath.Abs(dir); err == nil {
			real, err = filepath.EvalSymlinks(real)
		}
		if err != nil {
			real = dir
		}
		if o.real == nil {
			o.real = map[string]string{}
		}
		o.real[dir] = real
	}
	return join(real, filepath.Base(path))
}

// holds reports whether a path without links names a file in one of the places.
func (o *outputs) holds(path string) bool {
	for _, p := range o.places {
		rest, err := filepath.Rel(p.real, path)
		if err != nil || rest == ".." || strings.HasPrefix(rest, ".."+string(filepath.Separator)) {
			continue
		}
		for _, name := range p.names {
			if pathsMeet(literalElements(rest), name) {
				return true
			}
		}
	}
	return false
}

var _ connector.LoopChecker = (*Source[int])(nil)

// CheckLoop implements connector.LoopChecker. It refuses a job whose output would be its own input.
// It knows Folders, and standard output that is a file.
func (s *Source[T]) CheckLoop(ctx context.Context, own ...any) error {
	o, err := outputsOf(own)
	if err != nil || len(o.places)+len(o.stdout) == 0 {
		return err
	}
	for _, path := range s.config.Paths {
		root, elems, err := s.elements(path)
		if err != nil {
			continue // Splits reports it
		}
		var into string
		w := walk{ctx: ctx, folder: func(dir string, rest []element) {
			info, err := os.Stat(dir)
			for _, p := range o.places {
				if err == nil && into == "" && p.writes(info, rest) {
					into = p.dir
				}
			}
		}}
		_ = w.from(root, elems) // Splits reports what cannot be looked at
		if err := ctx.Err(); err != nil {
			return err
		}
		if into != "" {
			return fmt.Errorf("file: %s matches what the job itself writes into %s; put the input into another folder, or give it other names", path, into)
		}
	}
	all, _ := s.quiet().expand(ctx)
	for _, f := range all {
		if o.isStdout(f.info) || o.writes(ctx, f) {
			return fmt.Errorf("file: %s is a file that the job itself writes, by another name; read another file, or write elsewhere", f.path)
		}
	}
	return ctx.Err()
}

// elements returns the elements of one of the source's paths.
func (s *Source[T]) elements(path string) (root string, elems []element, err error) {
	if _, err := os.Stat(path); err != nil && hasMeta(path) {
		return parsePattern(path)
	}
	root = rootOf(path)
	return root, literalElements(path[len(root):]), nil
}

// quiet is the source without its logger.
func (s *Source[T]) quiet() *Source[T] {
	c := s.config
	c.Logger = nil
	return &Source[T]{config: c}
}

// CheckLoop implements connector.LoopChecker, for standard input that is a file.
func (s *Stdin[T]) CheckLoop(ctx context.Context, own ...any) error {
	c, _ := s.config.resolve()
	info := regular(c.Input)
	if info == nil {
		return nil
	}
	o, err := outputsOf(own)
	if err != nil {
		return err
	}
	if o.isStdout(info) || o.has(ctx, info) {
		return fmt.Errorf("file: standard input is a file that the job itself writes; read another file, or write elsewhere")
	}
	return nil
}
