package server

import (
	"compress/zlib"
	"io"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // clients may compress
)

// Grpc comes with gzip. Clients that are built on gRPC in C, such as Python's, also have deflate,
// which is zlib's format. If the program registers a compressor of that name, before or after this
// one, the program's is used.
func init() {
	if encoding.GetCompressor(deflate{}.Name()) == nil {
		encoding.RegisterCompressor(deflate{})
	}
}

type deflate struct{}

// Name implements encoding.Compressor.
func (deflate) Name() string { return "deflate" }

// Compress implements encoding.Compressor.
func (deflate) Compress(w io.Writer) (io.WriteCloser, error) { return zlib.NewWriter(w), nil }

// Decompress implements encoding.Compressor.
func (deflate) Decompress(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) }
