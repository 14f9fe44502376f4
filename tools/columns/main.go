// Command columns finds lines with more than 100 columns in the comments of Go files and in the
// text of Markdown files. A tab counts as 4 columns.
//
//	columns FILE...
//
// It prints each such line as FILE:LINE, and exits with 1 if there is one. It does not check
// generated files, directives, the output of examples, tables and code blocks of Markdown, and
// lines with a single long word, such as an address.
package main

import (
	"fmt"
	"os"
)

const (
	limit    = 100
	tabWidth = 4
)

// finding is a line that is too wide.
type finding struct {
	line, width int
}

func main() {
	bad, failed := 0, false
	for _, name := range os.Args[1:] {
		found, err := checkFile(name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			failed = true
		}
		for _, f := range found {
			fmt.Printf("%s:%d: %d columns\n", name, f.line, f.width)
		}
		bad += len(found)
	}
	if bad > 0 {
		fmt.Printf("%d lines have more than %d columns\n", bad, limit)
	}
	if bad > 0 || failed {
		os.Exit(1)
	}
}
