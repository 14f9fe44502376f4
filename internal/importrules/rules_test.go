package importrules

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tensorferry/tensorferry"

// Modules of others that a package may import directly.
const (
	grpc     = "google.golang.org/grpc"
	codes    = grpc + "/codes" // the numbers of the statuses, without a network
	protobuf = "google.golang.org/protobuf"
	rpc      = "google.golang.org/genproto/googleapis/rpc"
	sys      = "golang.org/x/sys"
	term     = "golang.org/x/term"
	yaml     = "github.com/goccy/go-yaml"
	metrics  = "github.com/prometheus/client_golang"
	gomlx    = "github.com/gomlx/gomlx"
	onnx     = "github.com/gomlx/onnx-gomlx"
	ortgo    = "github.com/yalue/onnxruntime_go"
	compute  = "github.com/gomlx/compute"
	franz    = "github.com/twmb/franz-go"
	otel     = "go.opentelemetry.io/otel"
	beam     = "github.com/apache/beam/sdks/v2"
	leak     = "go.uber.org/goleak"
	anything = "*"
)

type rule struct {
	ours   []string // packages of ours, without the module's name
	others []string // modules of others
}

// rules is the whole house: each package, and what it may import. A package that
// is not named here fails the test, so that a new one is given its place.
var rules = map[string]rule{
	"tensor":           {},
	"tensor/jsoncodec": {ours: []string{"internal/enum", "tensor"}},

	"internal/asyncq":      {},
	"internal/size":        {},
	"internal/brief":       {},
	"internal/enum":        {},
	"internal/fsx":         {others: []string{sys}},
	"internal/simfs":       {ours: []string{"internal/fsx"}},
	"internal/importrules": {},
	"internal/guard":       {ours: []string{"trace"}},
	"internal/callbacks":   {},
	"internal/cli":         {},

	"trace":              {ours: []string{"internal/enum"}},
	"trace/oteltrace":    {ours: []string{"trace"}, others: []string{otel + "/attribute", otel + "/codes", otel + "/trace"}},
	"internal/otlptrace": {ours: []string{"trace", "trace/oteltrace"}, others: []string{otel, grpc}},

	"async": {ours: []string{"internal/asyncq", "internal/enum", "internal/guard", "internal/size", "trace"}},

	"sidecar/endpoint":     {others: []string{sys}},
	"sidecar/shm":          {},
	"sidecar/oip":          {ours: []string{"internal/brief", "tensor"}, others: []string{grpc, protobuf, rpc}},
	"sidecar":              {ours: []string{"async", "internal/brief", "internal/guard", "sidecar/endpoint", "sidecar/oip", "sidecar/shm", "tensor", "trace"}, others: []string{grpc, protobuf, rpc}},
	"sidecar/backend":      {ours: []string{"tensor"}, others: []string{codes}},
	"sidecar/backend/mock": {ours: []string{"internal/enum", "sidecar/backend", "tensor"}, others: []string{codes}},
	"sidecar/backend/onnx": {ours: []string{"sidecar/backend", "tensor"}, others: []string{gomlx, onnx, compute, protobuf}},
	"sidecar/backend/ort":  {ours: []string{"sidecar/backend", "tensor"}, others: []string{ortgo}},
	"sidecar/server": {
		ours:   []string{"internal/brief", "internal/guard", "sidecar/backend", "sidecar/endpoint", "sidecar/oip", "tensor", "trace"},
		others: []string{grpc, protobuf, rpc, metrics},
	},
	"sidecar/sidecartest": {
		ours:   []string{"sidecar/backend", "sidecar/backend/mock", "sidecar/endpoint", "sidecar/oip", "sidecar/server", "tensor", "trace"},
		others: []string{grpc, protobuf, rpc},
	},

	"stream/checkpoint": {ours: []string{"internal/enum", "internal/fsx", "internal/guard"}},
	"stream/restart":    {},
	"stream":            {ours: []string{"async", "connector", "internal/guard", "internal/size", "stream/checkpoint", "stream/restart", "trace"}},
	"connector":         {ours: []string{"async"}},
	"async/asynctest":   {ours: []string{"async", "internal/enum"}},
	"connector/kafka":   {ours: []string{"async", "connector", "internal/brief", "internal/enum", "internal/guard", "stream/checkpoint", "trace"}, others: []string{franz}},
	"connector/file":    {ours: []string{"async", "connector", "internal/fsx", "internal/guard"}, others: []string{sys}},

	"connector/connectortest": {ours: []string{"async", "connector", "stream", "stream/checkpoint", "stream/restart"}},
	"job":                     {ours: []string{"tensor"}, others: []string{yaml}},
	"job/kafkatopics":         {ours: []string{"async", "connector/kafka", "job", "tensor/jsoncodec"}, others: []string{franz}},
	"job/embedded":            {ours: []string{"job", "sidecar/backend", "sidecar/backend/mock", "sidecar/backend/onnx", "sidecar/endpoint", "sidecar/server", "trace"}},
	"job/inference":           {ours: []string{"async", "job", "job/kafkatopics", "sidecar", "sidecar/endpoint", "tensor", "tensor/jsoncodec"}},
	"job/local": {
		ours: []string{"async", "connector", "connector/file", "connector/kafka", "internal/otlptrace", "job", "job/embedded", "job/inference", "job/kafkatopics",
			"sidecar", "sidecar/endpoint", "stream", "stream/checkpoint", "stream/restart", "trace"},
	},
	"ferry":           {ours: []string{"async", "internal/guard", "job", "job/inference", "sidecar", "sidecar/endpoint", "tensor", "trace"}, others: []string{metrics}},
	"cmd/tensorferry": {ours: []string{anything}, others: []string{anything}},
}

// flinkRules are the packages of the module flink, which is one of its own, and what they may
// import of both.
var flinkRules = map[string]rule{
	"flink":                    {ours: []string{"async", "flink/internal/eventtime", "flink/internal/idle", "internal/guard", "sidecar"}, others: []string{beam}},
	"flink/internal/eventtime": {ours: []string{"async"}, others: []string{beam}},
	"flink/internal/idle":      {},
	"flink/internal/jobserver": {others: []string{beam, grpc}},
	"flink/internal/leaktest":  {others: []string{beam, leak}},
	"flink/submit":             {ours: []string{"internal/brief"}, others: []string{beam, grpc, protobuf}},
	"flink/worker":             {ours: []string{"internal/guard"}, others: []string{beam, grpc}},
	"flink/jobfile": {
		ours: []string{
			"async", "connector", "connector/file", "connector/kafka", "flink", "flink/internal/eventtime", "flink/internal/idle", "flink/submit",
			"internal/fsx", "job", "job/embedded", "job/inference", "job/kafkatopics",
		},
		others: []string{beam},
	},
	"flink/cmd/tensorferry-flink": {
		ours:   []string{"flink", "flink/internal/idle", "flink/jobfile", "flink/submit", "flink/worker", "internal/cli", "job"},
		others: []string{beam},
	},
}

// part is one of the modules of this repository.
type part struct {
	dir   string
	name  string // what the names of its packages begin with
	rules map[string]rule
	// never are packages of ours that none of its packages needs, directly or not.
	never []string
}

var modules = []part{
	{"../..", "", rules, nil},
	// Flink is the runtime there.
	{"../../flink", "flink", flinkRules, []string{"stream", "stream/restart", "cmd/tensorferry"}},
}

// light are the packages that a program embeds, and the only modules of others
// that they may bring along, directly or not.
var (
	light     = []string{"trace", "tensor", "tensor/jsoncodec", "async", "sidecar", "connector", "stream", "connector/file"}
	lightDeps = []string{grpc, protobuf, rpc, "golang.org/x/"}
)

type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

// list asks the go command for the packages of the module in a folder and all that they need, as a
// program sees them (without tests).
func list(t *testing.T, dir string) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,Imports,Deps", "./...")
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, stderr.String())
	}
	touch(t)
	all := map[string]pkg{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
	return all
}

// touch opens the module's source files. The go command keeps the result of a test until a file
// that the test has opened changes, and does not know of those that its children open.
func touch(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != "../.." {
			return fs.SkipDir
		}
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		f, err := os.Open(path)
		if err == nil {
			err = f.Close()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func ours(path string) (string, bool) {
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

// within reports whether path is in one of the modules. A module that ends with a
// slash stands for all below it.
func within(path string, modules []string) bool {
	return slices.ContainsFunc(modules, func(m string) bool {
		return m == anything || path == m || strings.HasPrefix(path, strings.TrimSuffix(m, "/")+"/")
	})
}

func TestImports(t *testing.T) {
	for _, m := range modules {
		t.Run(cmp.Or(m.name, "root"), func(t *testing.T) {
			all := list(t, m.dir)
			seen := map[string]bool{}
			for _, path := range slices.Sorted(maps.Keys(all)) {
				name, isOurs := ours(path)
				if !isOurs || name != m.name && !strings.HasPrefix(name, m.name+"/") && m.name != "" {
					continue // of another module
				}
				seen[name] = true
				check(t, all, name, m.rules)
				for _, other := range m.never {
					if slices.Contains(all[path].Deps, module+"/"+other) {
						t.Errorf("%s needs %s, which nothing here may", name, other)
					}
				}
			}
			for name := range m.rules {
				if !seen[name] {
					t.Errorf("%s has a rule, and there is no such package", name)
				}
			}
		})
	}
}

// check compares what a package imports with its rule.
func check(t *testing.T, all map[string]pkg, name string, rules map[string]rule) {
	t.Helper()
	r, known := rules[name]
	if !known {
		// Examples and end-to-end tests are users: they import what they like,
		// and nobody imports them.
		if user(name) {
			return
		}
		t.Errorf("%s has no rule; say in this test what it may import", name)
		return
	}
	for _, imported := range all[strings.TrimSuffix(module+"/"+name, "/")].Imports {
		if p, ok := all[imported]; imported == "C" || ok && p.Standard {
			continue
		}
		if o, isOurs := ours(imported); isOurs {
			if !slices.ContainsFunc(modules, func(m part) bool { _, known := m.rules[o]; return known }) {
				t.Errorf("%s imports %s, which is nobody's to import", name, o)
			} else if !slices.Contains(r.ours, o) && !slices.Contains(r.ours, anything) {
				t.Errorf("%s imports %s; of ours it may import only %q", name, o, r.ours)
			}
		} else if !within(imported, r.others) {
			t.Errorf("%s imports %s; of others it may import only %q", name, imported, r.others)
		}
	}
}

// user reports whether a package is an example or an end-to-end test.
func user(name string) bool {
	name = strings.TrimPrefix(name, "flink/")
	return strings.HasPrefix(name, "examples/") || name == "integration" || strings.HasPrefix(name, "integration/")
}

// TestLight: who imports the library gets grpc and protobuf, and nothing else.
func TestLight(t *testing.T) {
	all := list(t, "../..")
	for _, name := range light {
		p, ok := all[module+"/"+name]
		if !ok {
			t.Errorf("%s: no such package", name)
			continue
		}
		for _, dep := range p.Deps {
			if _, isOurs := ours(dep); isOurs || dep == "C" || all[dep].Standard {
				continue
			}
			if !within(dep, lightDeps) {
				t.Errorf("%s brings %s along; only %q and the standard library are allowed", name, dep, lightDeps)
			}
		}
	}
}
