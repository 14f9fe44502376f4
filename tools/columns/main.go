// Command columns finds lines that are too wide to be read beside one another: comments of Go files
// and text of Markdown files with more than 100 columns, of which a tab takes 4.
//
//	columns FILE...
//
// It prints each such line as FILE:LINE and exits with 1 if there is one. Exempt is what has its
// width from elsewhere: generated files; directives and what an example prints; Markdown's tables
// and blocks of code; and a single long word, such as an address, that has its line to itself.
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
