package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/job/embedded"
	"github.com/tensorferry/tensorferry/sidecar/backend"
)

// fakeModel is a model that only knows which backend loaded it.
type fakeModel struct {
	backend.Model
	by string
}

func fakeLoader(by string, err error) backend.Loader {
	return backend.LoaderFunc(func(context.Context, backend.Location) (backend.Model, error) {
		if err != nil {
			return nil, err
		}
		return fakeModel{by: by}, nil
	})
}

func TestChoiceOfBackend(t *testing.T) {
	refused := errors.New("refused by ORT")
	absent := errors.New("no library in /nowhere")
	for name, c := range map[string]struct {
		missing, ortErr, onnxErr error
		only                     bool
		options                  url.Values
		by                       string // the backend that loads it; empty: none
		says                     string // in the log, or the error
	}{
		"library":                   {by: "ort", says: "onnxruntime 9"},
		"library with a device":     {options: url.Values{"device": {"cuda:1"}}, by: "ort", says: "device=cuda:1"},
		"no library":                {missing: absent, by: "onnx", says: "no library in /nowhere"},
		"no library for a device":   {missing: absent, options: url.Values{"device": {"cuda"}}, says: "no library in /nowhere"},
		"no library for threads":    {missing: absent, options: url.Values{"threads": {"2"}}, says: "need ONNX Runtime"},
		"refused":                   {ortErr: refused, by: "onnx", says: "refused by ORT"},
		"refused, told to be ORT":   {ortErr: refused, only: true, says: "refused by ORT"},
		"refused, with a device":    {ortErr: refused, options: url.Values{"device": {"cuda"}}, says: "refused by ORT"},
		"refused by both":           {ortErr: refused, onnxErr: errors.New("refused by Go"), says: "refused by ORT\nrefused by Go"},
		"no library, refused by Go": {missing: absent, onnxErr: errors.New("refused by Go"), says: "refused by Go"},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			a := auto{
				ort: fakeLoader("ort", c.ortErr), onnx: fakeLoader("onnx", c.onnxErr), library: "onnxruntime 9", missing: c.missing,
				only: c.only, log: slog.New(slog.NewTextHandler(&log, nil)),
			}
			m, err := a.Load(t.Context(), backend.Location{Path: "m.onnx", Options: c.options})
			if c.by == "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v, %v; want an error with %q", m, err, c.says)
				}
				return
			}
			if err != nil || m.(fakeModel).by != c.by {
				t.Fatalf("%v, %v; want %s", m, err, c.by)
			}
			if !strings.Contains(log.String(), c.says) {
				t.Errorf("the log says %q; want %q", log.String(), c.says)
			}
		})
	}
}

func TestBackendFlags(t *testing.T) {
	t.Setenv("TENSORFERRY_ORT_LIB", filepath.Join(t.TempDir(), "absent.so"))
	text := filepath.Join(t.TempDir(), "text.so")
	if err := os.WriteFile(text, []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	for name, c := range map[string]choice{
		"want auto, ort or onnx": {backend: "tensorrt"},
		"absent.so":              {backend: "ort"},
		text:                     {backend: "auto", ortLib: text},
	} {
		_, err := c.registry(log)
		if err == nil || !strings.Contains(err.Error(), name) && !strings.Contains(err.Error(), "without cgo") {
			t.Errorf("%+v: %v; want %s", c, err, name)
		}
	}
	// Without the library, .onnx files run in pure Go, and ort: is an error with the reason.
	const file = "../../sidecar/backend/onnx/testdata/digits.onnx"
	for _, which := range []string{"auto", "onnx"} {
		r, err := choice{backend: which}.registry(log)
		if err != nil {
			t.Fatal(err)
		}
		m, err := r.Load(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		m.Close()
		if m, err := r.Load(t.Context(), "ort:"+file); err == nil {
			t.Errorf("--backend %s: ort: was loaded: %v", which, m)
		}
	}
	if _, ok := embedded.Backends().Schemes["ort"]; ok {
		t.Error("a job's own process has ONNX Runtime")
	}
}
