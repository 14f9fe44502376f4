// Package ort is a backend that runs ONNX models with ONNX Runtime, through cgo, on the CPU or a
// CUDA device. The library is not part of the program. It is loaded at run time (Find says from
// where), and a process loads one library. Put [Loader] into a backend.Registry under the extension
// ".onnx". In a program that was built without cgo every load fails with that reason; package onnx
// needs no cgo. A fault inside the library, for example in an operator's own code, may end the
// process: do not use it where other work of the process must survive that.
//
// The options of a location, as in digits.onnx?instances=2, are
//
//	instances=N    run N batches at once (default 1), in one session
//	threads=N      threads that share the work of a batch (default 1)
//	device=D       cpu (default), cuda (the first device), cuda:N
//	max_batch=N    take no more than N rows (default: any number)
//	fixed_batch=N  pad every batch to N rows, and take no more than N
//
// A model is read from its path, so its weights may lie in files beside it.
//
// It must never know of requests, callers or connections.
package ort

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tensorferry/tensorferry/sidecar/backend"
)

// Options say how a model is run. Zero fields take the defaults.
type Options struct {
	// Instances is the number of batches that run at once. 0: 1.
	Instances int
	// Threads is the number of threads that share the work of one batch. 0: 1, which suits small
	// models. Large models gain from more.
	Threads int
	// Device is "cpu", "cuda" or "cuda:N". Empty: the CPU.
	Device string
	// MaxBatch is the largest number of rows in a batch. 0: any number.
	MaxBatch int
	// FixedBatch pads every batch to this many rows, which is then also the largest batch of the
	// model. 0: no padding.
	FixedBatch int
}

// Library is a loaded ONNX Runtime.
type Library struct {
	// Path is the library's file.
	Path string
	// Version is the library's own version, such as "1.32.0".
	Version string
}

// String names the library and where it came from.
func (l *Library) String() string { return "onnxruntime " + l.Version + " from " + l.Path }

// Loader loads the models of locations as the package comment describes them. The first load opens
// the library that Find(file) returns. The Loader is safe for concurrent use.
func Loader(file string) backend.Loader {
	return backend.LoaderFunc(func(ctx context.Context, loc backend.Location) (backend.Model, error) {
		opts, err := parseOptions(loc)
		if err != nil {
			return nil, err
		}
		lib, err := Open(file)
		if err != nil {
			return nil, err
		}
		return lib.Load(ctx, loc.Path, opts)
	})
}

func parseOptions(loc backend.Location) (o Options, err error) {
	if err := loc.CheckOptions("instances", "threads", "device", "max_batch", "fixed_batch"); err != nil {
		return o, err
	}
	for name, to := range map[string]*int{
		"instances": &o.Instances, "threads": &o.Threads, "max_batch": &o.MaxBatch, "fixed_batch": &o.FixedBatch,
	} {
		text := loc.Options.Get(name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1<<20 {
			return o, fmt.Errorf("option %s=%s: want a number, at least 1", name, text)
		}
		*to = n
	}
	o.Device = loc.Options.Get("device")
	_, err = o.normal()
	return o, err
}

// normal fills in the defaults and returns the number of the CUDA device, or -1 for the CPU.
func (o *Options) normal() (cuda int, err error) {
	if o.Instances < 0 || o.Threads < 0 || o.MaxBatch < 0 || o.FixedBatch < 0 {
		return 0, errors.New("ort: Instances, Threads, MaxBatch and FixedBatch must not be negative")
	}
	o.Instances, o.Threads = max(o.Instances, 1), max(o.Threads, 1)
	if o.FixedBatch > 0 && (o.MaxBatch == 0 || o.MaxBatch > o.FixedBatch) {
		o.MaxBatch = o.FixedBatch
	}
	kind, number, numbered := strings.Cut(o.Device, ":")
	switch {
	case o.Device == "" || o.Device == "cpu":
		o.Device = "cpu"
		return -1, nil
	case kind == "cuda" && !numbered:
		return 0, nil
	case kind == "cuda":
		if n, err := strconv.ParseUint(number, 10, 8); err == nil {
			return int(n), nil
		}
	}
	return 0, fmt.Errorf("option device=%s: want cpu, cuda or cuda:N", o.Device)
}
