package asynctest_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The code of the documents is the code of example_test.go, word for word, so it compiles and is
// true.
func TestDocumentsAreTrue(t *testing.T) {
	read := func(file string) string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	examples := read("example_test.go")
	check := func(file string, blocks []string, atLeast int) {
		if len(blocks) < atLeast {
			t.Errorf("%s has %d pieces of code, want at least %d", file, len(blocks), atLeast)
		}
		for _, code := range blocks {
			if !strings.Contains(examples, code) {
				t.Errorf("%s shows code that example_test.go does not have:\n%s", file, code)
			}
		}
	}

	var doc []string
	for _, code := range regexp.MustCompile(`(?m)(^//(\t.*)?\n)+`).FindAllString(read("doc.go"), -1) {
		code = regexp.MustCompile(`(?m)^//\t?`).ReplaceAllString(code, "")
		if code = strings.Trim(code, "\n"); code != "" {
			doc = append(doc, code+"\n")
		}
	}
	check("doc.go", doc, 1)

	var blocks []string
	for _, m := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(read("../../docs/testing.md"), -1) {
		blocks = append(blocks, m[1])
	}
	check("docs/testing.md", blocks, 5)
}
