package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	jobfile "github.com/tensorferry/tensorferry/job"
)

// The documents' job files are job files, and the README's code is the example's.
func TestDocumentsAreTrue(t *testing.T) {
	docs, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	yaml := regexp.MustCompile("(?s)```yaml\n(.*?)```")
	found := 0
	for _, doc := range append(docs, "../README.md") {
		b, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range yaml.FindAllSubmatch(b, -1) {
			found++
			if _, err := jobfile.Parse(doc, "/jobs", block[1]); err != nil {
				t.Errorf("a job file in %s:\n%v", doc, err)
			}
		}
	}
	if found < 3 {
		t.Errorf("only %d job files found in the documents", found)
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../examples/library/main.go")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile("(?s)```go\n(\tcodec := .*?)```").FindSubmatch(readme)
	if code == nil || !strings.Contains(string(example), string(code[1])) {
		t.Error("the README's code is not what examples/library runs")
	}
}
