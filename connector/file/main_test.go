package file

import (
	"encoding/json"
	"testing"

	"go.uber.org/goleak"
)

// rawSource reads files as they are, with the defaults.
func rawSource(paths ...string) *Source[json.RawMessage] {
	return NewSource(SourceConfig[json.RawMessage]{Paths: paths, Decode: Raw})
}

// rawSink writes into a folder as it comes, with the defaults.
func rawSink(dir string) *Sink[json.RawMessage] {
	return NewSink(SinkConfig[json.RawMessage]{Dir: dir, Encode: RawLine})
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
