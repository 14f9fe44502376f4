// Package embedded runs the model server that a job file brings along, inside the process of the
// job's host. A host calls [Start] before the job, passes Endpoint to it, and calls Close after it.
// The server takes memory and CPU from the job, and a crash of one is a crash of both. For large
// models, or for models that need ONNX Runtime or a GPU, run a sidecar of its own and name its
// endpoint in the job file.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tensorferry/tensorferry/job"
	"github.com/tensorferry/tensorferry/sidecar/backend"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/backend/onnx"
	"github.com/tensorferry/tensorferry/sidecar/endpoint"
	"github.com/tensorferry/tensorferry/sidecar/server"
	"github.com/tensorferry/tensorferry/trace"
)

// Sidecar is a model server that runs in the process that started it. It listens on the job file's
// endpoint, or on a socket in a private folder that Start makes.
type Sidecar struct {
	endpoint string
	server   *server.Server
	dir      string // to be removed; empty if the job file names the endpoint
}

// Endpoint returns the address on which it listens.
func (e *Sidecar) Endpoint() string { return e.endpoint }

// Backends returns the kinds of model that run inside a job's own process. ONNX Runtime is not
// among them: a fault in it would end the job too, and answers would depend on the machine.
func Backends() backend.Registry {
	return backend.Registry{
		Schemes:    map[string]backend.Loader{"mock": mock.Loader(), "onnx": onnx.Loader()},
		Extensions: map[string]backend.Loader{".onnx": onnx.Loader()},
	}
}

// Check returns what is wrong with the models of a job file, as far as it shows without loading
// them. Each error is a job.Fault.
func Check(spec *job.Spec) (faults []error) {
	if spec.Sidecar == nil {
		return nil
	}
	registry := Backends()
	for _, name := range slices.Sorted(maps.Keys(spec.Sidecar.Models)) {
		path := "sidecar.models." + name
		loc, err := backend.ParseLocation(location(spec.Sidecar.Models[name]))
		var loader backend.Loader
		if err == nil {
			loader, err = registry.Loader(loc)
		}
		if c, ok := loader.(backend.Checker); ok {
			err = c.Check(loc)
		}
		if err != nil {
			faults = append(faults, spec.Fault(path, "%v", err))
			continue
		}
		if loc.Scheme != "" {
			continue
		}
		info, err := os.Stat(loc.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			faults = append(faults, spec.Fault(path, "no such file: %s", loc.Path))
		case err != nil:
			faults = append(faults, spec.Fault(path, "%v", err))
		case info.IsDir():
			faults = append(faults, spec.Fault(path, "%s is a folder; want the model's file", loc.Path))
		}
	}
	return faults
}

// location writes a model in the form of the sidecar's flag --model.
func location(m job.Model) string {
	if len(m.Options) == 0 {
		return m.Location
	}
	options := url.Values{}
	for name, value := range m.Options {
		options.Set(name, value)
	}
	// A plus sign in a location is a plus sign, not a space.
	query := strings.ReplaceAll(options.Encode(), "+", "%20")
	if strings.Contains(m.Location, "?") {
		return m.Location + "&" + query
	}
	return m.Location + "?" + query
}

// Start starts the sidecar of the job and waits until its models are loaded, or ctx ends. tracer
// may be nil. If Start fails, it leaves nothing behind.
func Start(ctx context.Context, spec *job.Spec, log *slog.Logger, tracer trace.Tracer) (e *Sidecar, err error) {
	s := spec.Sidecar
	cfg := server.Config{
		Backends: Backends(), MaxBatch: s.MaxBatch, MaxBatchDelay: s.MaxBatchDelay,
		QueueRows: s.QueueRows, QueueBytes: s.QueueBytes, QueueTimeout: s.QueueTimeout,
		MaxMessageSize: spec.Infer.MaxMessage, Logger: log.With("part", "sidecar"), Tracer: tracer, Strict: true,
	}
	// Each subtask has a connection. After a loss it has a new one before the server notices
	// that the old one is gone.
	cfg.MaxConnections = max(server.DefaultMaxConnections, 4*spec.Parallelism)
	for _, name := range slices.Sorted(maps.Keys(s.Models)) {
		cfg.Models = append(cfg.Models, server.Model{Name: name, Location: location(s.Models[name])})
	}
	e = &Sidecar{endpoint: spec.Infer.Endpoint}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	if e.endpoint == "" {
		if e.dir, err = privateFolder(); err != nil {
			return e, fmt.Errorf("make a private folder for the sidecar's socket: %w", err)
		}
		e.endpoint = "unix://" + filepath.Join(e.dir, socketName)
	}
	ep, err := endpoint.Parse(e.endpoint)
	if err != nil {
		return e, err
	}
	srv, err := server.New(cfg)
	if err != nil {
		return e, err
	}
	l, err := ep.Listen()
	if err != nil {
		return e, err
	}
	if err := srv.Start(l); err != nil {
		l.Close()
		return e, err
	}
	e.server = srv
	if err := srv.WaitReady(ctx); err != nil {
		return e, err
	}
	return e, nil
}

const (
	folderPrefix = "tensorferry-"
	socketName   = "sidecar.sock"
)

// privateFolder makes a folder that only this user can enter, with a path short
// enough for a socket in it. It removes such folders of killed processes.
func privateFolder() (string, error) {
	parent := os.TempDir()
	if len(parent)+len("/"+folderPrefix+"0123456789/"+socketName) > endpoint.MaxPath {
		parent = "/tmp"
	}
	endpoint.Sweep(filepath.Join(parent, folderPrefix+"*"), socketName)
	return os.MkdirTemp(parent, folderPrefix)
}

// Close ends the sidecar at once and removes its folder. Call it when the job's own connections are
// closed.
func (e *Sidecar) Close() (err error) {
	if e.server != nil {
		err = e.server.Close()
	}
	if e.dir != "" {
		err = errors.Join(err, os.RemoveAll(e.dir))
	}
	return err
}
