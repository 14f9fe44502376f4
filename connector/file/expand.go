package file

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// found is a file that a path names.
type found struct {
	path string
	info os.FileInfo
}

// expand returns the files that the source's paths name, in the order of the paths. It returns each
// file once, under its first name, however many names and links it has.
func (s *Source[T]) expand(ctx context.Context) ([]found, error) {
	if len(s.config.Paths) == 0 {
		return nil, errors.New("file: the source has no paths; name at least one file")
	}
	var all []found
	var errs []error
	var once fileSet
	for _, p := range s.config.Paths {
		some, err := s.match(ctx, p)
		if err != nil {
			errs = append(errs, err)
		}
		for _, f := range some {
			if was, new := once.add(f); new {
				all = append(all, f)
			} else if was.path != f.path {
				s.warn("two names of one file; it is read once", "file", was.path, "is also", f.path)
			}
		}
	}
	return all, errors.Join(errs...)
}

// match returns the files that one path names, in the order of their names, byte by byte.
func (s *Source[T]) match(ctx context.Context, path string) ([]found, error) {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.Mode().IsRegular():
		return []found{{tidy(path), info}}, nil
	case err == nil && info.IsDir():
		return nil, fmt.Errorf("file: %s is a folder; name the files in it, as in %s", path, filepath.Join(path, "*.jsonl"))
	case err == nil:
		return nil, fmt.Errorf("file: %s is not a regular file, so it cannot be cut and read again; use standard input for pipes", path)
	case !hasMeta(path):
		return nil, fmt.Errorf("file: %w", err)
	}
	root, elems, err := parsePattern(path)
	if err != nil {
		return nil, fmt.Errorf("file: the pattern %s: %w", path, err)
	}
	var all []found
	var blind []error
	w := walk{ctx: ctx, file: func(path string) {
		switch info, err := os.Stat(path); {
		case err == nil && info.Mode().IsRegular():
			all = append(all, found{tidy(path), info})
		case err == nil && !info.IsDir():
			s.warn("a pattern matches a name that is not a regular file, so it is not read", "name", path, "is", info.Mode().Type().String())
		case err == nil: // a folder
		case nowhere(err):
			if _, err := os.Lstat(path); err == nil {
				s.warn("a link leads nowhere, so it is not read", "link", path)
			}
		default:
			blind = append(blind, err)
		}
	}}
	err = w.from(root, elems)
	if err == nil && len(blind) > 0 {
		err = fmt.Errorf("%w; the input would lack the files in it: make it readable, or use a pattern that does not match it",
			errors.Join(blind...))
	}
	if err != nil {
		return nil, fmt.Errorf("file: the pattern %s: %w", path, err)
	}
	if all == nil {
		return nil, fmt.Errorf("file: the pattern %s matches no file", path)
	}
	slices.SortFunc(all, func(a, b found) int { return cmp.Compare(a.path, b.path) })
	return slices.CompactFunc(all, func(a, b found) bool { return a.path == b.path }), nil
}

// tidy is filepath.Clean, except for paths with .. in them: after a link, .. is not the folder that
// stands before the link.
func tidy(path string) string {
	if strings.Contains(path, "..") {
		return path
	}
	return filepath.Clean(path)
}

// walk goes through the folders that may hold files that a pattern matches.
type walk struct {
	ctx context.Context
	// folder, if set, is called for each folder, with what is left of the pattern there.
	folder func(dir string, rest []element)
	// file, if set, is called for each name that the whole pattern matches, whatever it names.
	file func(path string)
	// seen are the folders that the walk has been in, each with the length of the pattern that was
	// left there.
	seen map[visit]bool
}

type visit struct {
	dir  string
	left int
}

func (w *walk) from(root string, elems []element) error {
	w.seen = map[visit]bool{}
	return w.in(root, elems)
}

// in looks for the rest of a pattern in a folder. "" is the current folder.
func (w *walk) in(dir string, elems []element) error {
	v := visit{dir, len(elems)}
	if len(elems) == 0 || w.seen[v] {
		return nil
	}
	w.seen[v] = true
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if w.folder != nil {
		w.folder(cmp.Or(dir, "."), elems)
	}
	e, rest := elems[0], elems[1:]
	if e.literal {
		return w.next(join(dir, e.name), rest)
	}
	if e.deep() {
		if err := w.in(dir, rest); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(cmp.Or(dir, "."))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w; the input would lack the files in it: make it readable, or use a pattern that does not reach it", err)
	}
	for _, entry := range entries {
		path := join(dir, entry.Name())
		switch {
		case !e.deep():
			if e.matches(entry.Name()) {
				err = w.next(path, rest)
			}
		case entry.IsDir() && entry.Name()[0] != '.': // links might lead round in circles
			err = w.in(path, elems)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// next goes on after an element has matched a name.
func (w *walk) next(path string, rest []element) error {
	if len(rest) == 0 {
		if w.file != nil {
			w.file(path)
		}
		return nil
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return w.in(path, rest)
	case err == nil || nowhere(err):
		return nil // a file, or a link that leads nowhere
	}
	return err // a folder that cannot be looked at may hold input
}

// nowhere reports whether an error of os.Stat says that nothing is there, and not that access is
// denied.
func nowhere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENOTDIR)
}

func join(dir, name string) string {
	if dir == "" || os.IsPathSeparator(dir[len(dir)-1]) {
		return dir + name
	}
	return dir + string(filepath.Separator) + name
}

// fileSet holds files, each once, whatever their names.
type fileSet struct{ files map[uint64][]found }

// add puts f into the set unless its file is there already. It returns the entry of the set.
func (s *fileSet) add(f found) (was found, added bool) {
	id, _ := inode(f.info)
	if was, ok := s.has(f.info); ok {
		return was, false
	}
	if s.files == nil {
		s.files = map[uint64][]found{}
	}
	s.files[id] = append(s.files[id], f)
	return f, true
}

// has returns the file of the set that info describes.
func (s *fileSet) has(info os.FileInfo) (found, bool) {
	id, _ := inode(info)
	for _, f := range s.files[id] {
		if os.SameFile(f.info, info) {
			return f, true
		}
	}
	return found{}, false
}
