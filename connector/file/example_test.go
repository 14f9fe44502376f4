package file_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tensorferry/tensorferry/connector/file"
	"github.com/tensorferry/tensorferry/stream"
)

type reading struct {
	Sensor string  `json:"sensor"`
	Value  float64 `json:"value"`
}

// A job from files to files: whatever happens on the way, each line is in the
// output once, in the order of the input.
func Example() {
	dir, err := os.MkdirTemp("", "readings")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	input := filepath.Join(dir, "readings.jsonl")
	if err := os.WriteFile(input, []byte("{\"sensor\":\"a\",\"value\":1.5}\n{\"sensor\":\"b\",\"value\":2}\n"), 0o666); err != nil {
		fmt.Println(err)
		return
	}

	j := stream.New("doubled", stream.Config{})
	readings := stream.From(j, file.NewSource(file.SourceConfig[reading]{Paths: []string{input}, Decode: file.JSON[reading]}))
	doubled := stream.Map(readings, func(r reading) (reading, error) {
		r.Value *= 2
		return r, nil
	})
	stream.To(doubled, file.NewSink(file.SinkConfig[reading]{Dir: filepath.Join(dir, "out"), Encode: file.JSONLine[reading]}))
	if err := j.Run(context.Background()); err != nil {
		fmt.Println(err)
		return
	}

	parts, err := filepath.Glob(filepath.Join(dir, "out", "part-*"))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, part := range parts {
		lines, err := os.ReadFile(part)
		fmt.Printf("%s\n%s", filepath.Base(part), lines)
		if err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// part-00000-00000.jsonl
	// {"sensor":"a","value":3}
	// {"sensor":"b","value":4}
}

// A record's event time can come from one of its fields.
func ExampleTimeField() {
	when := file.TimeField("at")
	for _, record := range []string{`{"at":1500}`, `{"at":"1970-01-01T00:00:02Z"}`} {
		t, err := when([]byte(record))
		fmt.Println(int64(t), err)
	}
	// Output:
	// 1500 <nil>
	// 2000 <nil>
}
