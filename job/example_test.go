package job_test

import (
	"fmt"

	"github.com/tensorferry/tensorferry/job"
)

// Every mistake of a job file is found at once, with its place.
func ExampleParse() {
	_, err := job.Parse("job.yaml", "/jobs", []byte(`
name: digits
source: {file: {path: digits.jsonl}}
infer: {endpoint: localhost:8001, model: digits, timeout: 5, capacty: 100}
sink: {file: {path: out}}
`))
	fmt.Println(err)
	// Output:
	// job.yaml:4:59: infer.timeout: want a duration with its unit, such as 500ms, 10s or 2m, or 0 for none, found 5
	// job.yaml:4:62: infer.capacty: unknown key; did you mean "capacity"?
}
