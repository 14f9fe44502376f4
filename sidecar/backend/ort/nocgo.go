//go:build !cgo || windows

package ort

import (
	"context"
	"errors"

	"github.com/tensorferry/tensorferry/sidecar/backend"
)

var errNoCgo = errors.New("this program was built without cgo, which ONNX Runtime needs; build it with CGO_ENABLED=1 and a C compiler")

// Open returns an error: the program was built without cgo.
func Open(file string) (*Library, error) { return nil, errNoCgo }

// Load returns an error: the program was built without cgo.
func (l *Library) Load(ctx context.Context, path string, opts Options) (backend.Model, error) {
	return nil, errNoCgo
}
