package file_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

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

// Records pass as they are, byte for byte, from standard input to standard output.
func Example_raw() {
	input, pipe, err := os.Pipe()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer input.Close()
	fmt.Fprint(pipe, "{\"at\": 1.50}\n\n[\"<&>\"]\n")
	pipe.Close()

	j := stream.New("copied", stream.Config{})
	records := stream.From(j, file.NewStdin(file.StdinConfig[json.RawMessage]{Decode: file.Raw, Input: input}))
	stream.To(records, file.NewStdout(file.StdoutConfig[json.RawMessage]{Encode: file.RawLine}))
	if err := j.Run(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// {"at": 1.50}
	// ["<&>"]
}

// A Decode and an Encode of your own read and write lines of any form.
func Example_ownFormat() {
	dir, err := os.MkdirTemp("", "readings")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	input := filepath.Join(dir, "readings.csv")
	if err := os.WriteFile(input, []byte("a,1.5\nb,2\n"), 0o666); err != nil {
		fmt.Println(err)
		return
	}

	j := stream.New("readings", stream.Config{})
	readings := stream.From(j, file.NewSource(file.SourceConfig[reading]{
		Paths: []string{input},
		Decode: func(line []byte) (reading, error) {
			sensor, value, _ := strings.Cut(string(line), ",")
			v, err := strconv.ParseFloat(value, 64)
			return reading{sensor, v}, err
		},
	}))
	stream.To(readings, file.NewStdout(file.StdoutConfig[reading]{
		Encode: func(r *stream.Record[reading]) ([]byte, error) {
			return fmt.Appendf(nil, "%s at byte %d: %.2f", r.Value.Sensor, r.Position, r.Value.Value), nil
		},
	}))
	if err := j.Run(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// a at byte 0: 1.50
	// b at byte 6: 2.00
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
