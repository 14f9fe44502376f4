package file

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/connector/connectortest"
	"github.com/tensorferry/tensorferry/stream"
)

// lanes writes files of records, one for each lane.
func lanes(t *testing.T, dir string, n, records int) {
	t.Helper()
	for lane := range n {
		var text strings.Builder
		for i := range records {
			text.WriteString(connectortest.Line(lane, i) + "\n")
		}
		if err := os.WriteFile(filepath.Join(dir, string(rune('a'+lane))+".jsonl"), []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSourceKeepsTheContract(t *testing.T) {
	dir := t.TempDir()
	lanes(t, dir, 3, 500)
	connectortest.Source(t, connectortest.Input[json.RawMessage]{
		New: func() connector.Source[json.RawMessage] {
			return NewSource(SourceConfig[json.RawMessage]{Decode: Raw, Paths: []string{filepath.Join(dir, "*.jsonl")}, SplitSize: 3000})
		},
		Records: 1500,
		Text:    func(v json.RawMessage) string { return string(v) },
	})
}

func TestFilesToFilesKeepTheContract(t *testing.T) {
	for range 3 {
		synctest.Test(t, func(t *testing.T) {
			in, out := t.TempDir(), t.TempDir()
			lanes(t, in, 3, 1000)
			connectortest.Job(t, connectortest.Pair[json.RawMessage]{
				Lanes: 3, Records: 1000, Store: stream.NewMemoryStore(), Guarantee: connectortest.ExactlyOnce,
				Open: func() (connector.Source[json.RawMessage], connector.Sink[json.RawMessage], func() error) {
					return NewSource(SourceConfig[json.RawMessage]{Decode: Raw, Paths: []string{filepath.Join(in, "*.jsonl")}, SplitSize: 3000}),
						NewSink(SinkConfig[json.RawMessage]{Encode: RawLine, Dir: out}), func() error { return nil }
				},
				Published: func() map[int][]string { return publishedLanes(t, out) },
			})
		})
	}
}

// publishedLanes are the lines of a folder's part files, by lane.
func publishedLanes(t *testing.T, dir string) map[int][]string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "part-*"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	all := map[int][]string{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var v struct{ Lane int }
			if err := json.Unmarshal([]byte(line), &v); err != nil {
				t.Fatal(err)
			}
			all[v.Lane] = append(all[v.Lane], strings.TrimSuffix(line, "\n"))
		}
	}
	return all
}
