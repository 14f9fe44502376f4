package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tensorferry/tensorferry/sidecar/backend"
)

// folder is a model repository on disk, laid out as Triton's:
//
//	DIR/NAME/VERSION/model.EXT
//
// VERSION is a number, and EXT one that the backends know. Other files, and names that begin with a
// dot, are ignored. Names come from the network, so neither they nor links may lead out of the
// folder.
type folder struct {
	dir      string // absolute
	backends backend.Registry
}

// maxName is the longest name of a model, in bytes; file systems take no more.
const maxName = 255

// checkName returns an error if the name may not be that of a model's folder.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("a model's name is empty")
	case len(name) > maxName:
		return fmt.Errorf("a model's name has %d bytes; want at most %d", len(name), maxName)
	case !utf8.ValidString(name):
		return errors.New("a model's name is not UTF-8")
	case strings.HasPrefix(name, "."):
		return fmt.Errorf("model name %q begins with a dot", name)
	case strings.ContainsAny(name, `/\:`):
		return fmt.Errorf("model name %q holds a slash, a backslash or a colon", name)
	case strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("model name %q holds a character that cannot be printed", name)
	}
	return nil
}

// list returns the names of the models in the folder.
func (d *folder) list() ([]string, error) {
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if checkName(e.Name()) == nil && isDir(root, e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// isDir reports whether a name is that of a folder. It follows links that stay inside of root.
func isDir(root *os.Root, name string) bool {
	info, err := root.Stat(name)
	return err == nil && info.IsDir()
}

// has reports whether the folder has such a model. The name must have been checked.
func (d *folder) has(name string) bool {
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return false
	}
	defer root.Close()
	return isDir(root, name)
}

// find returns the versions of a model that are in the folder, at least one.
func (d *folder) find(name string) ([]Model, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return nil, d.inside(err)
	}
	defer root.Close()
	versions, err := readDir(root, name)
	if err != nil {
		return nil, d.inside(err)
	}
	var out []Model
	for _, v := range versions {
		if !isNumber(v) || v[0] == '0' || len(v) > 19 || !isDir(root, path.Join(name, v)) {
			continue
		}
		file, err := d.file(root, path.Join(name, v))
		if err != nil {
			return nil, d.inside(err)
		}
		out = append(out, Model{Name: name, Version: v, Location: file,
			Load: func(ctx context.Context) (backend.Model, error) { return d.load(ctx, file) }})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("folder %q of the repository has no version; want a folder whose name is a number, as %s/1/model.onnx", name, name)
	}
	slices.SortFunc(out, func(a, b Model) int { return compareVersions(a.Version, b.Version) })
	return out, nil
}

// file returns the path of the model in a version's folder.
func (d *folder) file(root *os.Root, dir string) (string, error) {
	names, err := readDir(root, dir)
	if err != nil {
		return "", err
	}
	var found []string
	for _, n := range names {
		if ext := path.Ext(n); strings.TrimSuffix(n, ext) == "model" && d.backends.Extensions[strings.ToLower(ext)] != nil {
			found = append(found, n)
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%s has %d models %q; want one file model.EXT; the backends of this program are %s", dir, len(found), found, d.backends)
	}
	// A link that leads out of the folder fails here.
	info, err := root.Stat(path.Join(dir, found[0]))
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s/%s is not a regular file", dir, found[0])
	}
	return filepath.Join(d.dir, filepath.FromSlash(dir), found[0]), nil
}

func readDir(root *os.Root, dir string) ([]string, error) {
	f, err := root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// load loads a file. The path is not parsed as a location, because names may hold characters that
// have a meaning there.
func (d *folder) load(ctx context.Context, file string) (backend.Model, error) {
	loc := backend.Location{Path: file}
	l, err := d.backends.Loader(loc)
	if err != nil {
		return nil, d.inside(err)
	}
	m, err := l.Load(ctx, loc)
	if err != nil {
		return nil, d.inside(err)
	}
	return m, nil
}

// inside removes the folder's own path from an error, because callers get the error.
func (d *folder) inside(err error) error {
	if err == nil || !strings.Contains(err.Error(), d.dir) {
		return err
	}
	text := strings.ReplaceAll(err.Error(), d.dir+string(filepath.Separator), "")
	return errors.New(strings.ReplaceAll(text, d.dir, "the repository"))
}
