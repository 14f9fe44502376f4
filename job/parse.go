package job

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// MaxFile is the largest size of a job file, in bytes. Reading takes time in the square of the
// nesting depth, so this bound keeps a hostile file from hanging the program.
const MaxFile = 64 << 10

// maxNesting bounds the brackets open at one place. The keys of a job file nest
// five deep.
const maxNesting = 100

// Load reads and checks a job file. Relative paths in it become absolute, from the folder of the
// file. If the file could be read, the error is Faults.
func Load(path string) (*Spec, error) {
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("job file %s: %w", path, err)
	}
	// Opening a named pipe blocks until something opens its other end. A pipe that a shell
	// passes in /dev or /proc is open there already.
	if info, err := os.Stat(path); err == nil && info.Mode()&fs.ModeNamedPipe != 0 && !strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/proc/") {
		return nil, fmt.Errorf("job file %s: it is a named pipe; want a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("job file %s: %w", path, cause(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("job file %s: %w", path, cause(err))
	}
	return Parse(path, dir, data)
}

// cause drops the operation and the path of a file error, which the caller's message has.
func cause(err error) error {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err
	}
	return err
}

// Parse reads and checks the content of a job file. file is its name in messages, and dir the
// folder that relative paths start from. Parse reads nothing from disk. The error is always Faults.
func Parse(file, dir string, data []byte) (*Spec, error) {
	d := &decoder{file: file, dir: dir, at: map[string]Position{}}
	return d.parse(data, d.spec)
}

// ParseInfer reads and checks a mapping with the keys of a job file's section infer, as YAML or
// JSON. Of the Spec that it returns, only Infer is set. Endpoint and model may be left out. name
// stands for the file in messages. ParseInfer reads nothing from disk. The error is always Faults.
func ParseInfer(name string, data []byte) (*Spec, error) {
	d := &decoder{file: name, at: map[string]Position{}}
	return d.parse(data, func(v value) *Spec {
		v.path = "infer"
		spec := &Spec{Infer: d.infer(v, false, false)}
		d.operator(&spec.Infer)
		return spec
	})
}

// parse reads a document whose root read understands.
func (d *decoder) parse(data []byte, read func(root value) *Spec) (*Spec, error) {
	spec := d.document(data, read)
	if d.faults != nil {
		d.faults.sort()
		return nil, d.faults
	}
	spec.File, spec.Warnings, spec.at = d.file, d.warnings, d.at
	return spec, nil
}

func (d *decoder) document(data []byte, read func(root value) *Spec) *Spec {
	start := Position{1, 1}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if len(data) > MaxFile {
		d.fault(start, "the file has more than %d bytes, the most that a job file may have", MaxFile)
		return nil
	}
	if !plausible(data) {
		d.fault(start, "the file is not text, or nests more than %d brackets; want a job file", maxNesting)
		return nil
	}
	tree, err := parse(data)
	if err != nil {
		if syntax, ok := errors.AsType[*yaml.SyntaxError](err); ok && syntax.Token != nil && syntax.Token.Position != nil {
			at := syntax.Token.Position
			d.fault(Position{max(at.Line, 1), max(at.Column, 1)}, "not valid YAML: %s", oneLine(syntax.Message))
		} else {
			d.fault(start, "not valid YAML: %s", oneLine(err.Error()))
		}
		return nil
	}
	var body ast.Node
	for _, doc := range tree.Docs {
		switch {
		case doc.Body == nil:
		case doc.Body.Type() == ast.DirectiveType || doc.Body.Type() == ast.CommentType:
		case body != nil:
			d.fault(position(doc.Body), "a second YAML document; want one job per file")
			return nil
		default:
			body = doc.Body
		}
	}
	if body == nil {
		d.fault(start, "the file is empty; want name, source, infer and sink")
		return nil
	}
	return read(value{node: body, at: start})
}

// parse turns a panic of the YAML library into an error, which becomes a fault of the file.
func parse(data []byte) (tree *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			tree, err = nil, fmt.Errorf("the parser cannot read it (%v)", p)
		}
	}()
	// The decoder reports keys that are given twice, together with the other faults.
	return parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
}

// plausible rejects content that no job file has and that the parser handles badly.
func plausible(data []byte) bool {
	depth := 0
	for _, c := range data {
		switch {
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			depth--
		case c < ' ' && c != '\n' && c != '\r' && c != '\t':
			return false
		}
		if depth > maxNesting {
			return false
		}
	}
	return true
}

func oneLine(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.IndexAny(s, "\r\n"); i >= 0 {
		s = s[:i]
	}
	return s
}
