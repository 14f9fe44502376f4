package server

import (
	"compress/zlib"
	"io"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // clients may compress
)

// Grpc brings gzip along. Clients of gRPC in C, and with it Python's, have deflate too, which is
// zlib's format. Another's compressor of that name, registered before or after, is as good.
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
