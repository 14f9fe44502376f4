package job

import (
	"os"
	"strings"
	"testing"
)

// TestDocs: every complete job file in the documents is valid, and the one in docs/job.md has every
// section.
func TestDocs(t *testing.T) {
	for _, name := range []string{"job.md", "kafka.md", "deploy.md"} {
		text, err := os.ReadFile("../docs/" + name)
		if err != nil {
			t.Fatal(err)
		}
		jobs := 0
		for _, block := range yamlBlocks(string(text)) {
			if !strings.HasPrefix(block, "name:") {
				continue // only a part of a job file
			}
			jobs++
			if _, err := Parse(name, "/", []byte(block)); err != nil {
				t.Errorf("%v in\n%s", err, block)
			}
		}
		if jobs == 0 {
			t.Errorf("%s shows no job file", name)
		}
	}
}

// yamlBlocks returns the blocks of YAML in a document, without their indentation.
func yamlBlocks(text string) (blocks []string) {
	var block *strings.Builder
	indent := ""
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		switch {
		case block == nil && trimmed == "```yaml":
			block = &strings.Builder{}
			indent = line[:strings.Index(line, "`")]
		case block != nil && trimmed == "```":
			blocks = append(blocks, block.String())
			block = nil
		case block != nil:
			block.WriteString(strings.TrimPrefix(line, indent))
		}
	}
	return blocks
}
