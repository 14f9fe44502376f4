package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

func checkFile(name string) ([]finding, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	switch ext := filepath.Ext(name); ext {
	case ".go":
		return checkGo(name, data)
	case ".md":
		return checkMarkdown(string(data)), nil
	default:
		return nil, fmt.Errorf("%s: neither Go nor Markdown", name)
	}
}

// width returns the number of columns of a line.
func width(line string) int {
	return utf8.RuneCountInString(line) + strings.Count(line, "\t")*(tabWidth-1)
}

// oneWord reports whether text is a single word, which cannot be wrapped. Its comment or list
// marker is removed.
func oneWord(text string) bool { return len(strings.Fields(text)) <= 1 }

var (
	directive = regexp.MustCompile(`^//([a-z0-9]+:[a-z0-9]|export |extern |line |nolint)`)
	output    = regexp.MustCompile(`(?i)^//\s*(unordered )?output:`)
)

// checkGo checks the lines of comments, with the code before them.
func checkGo(name string, data []byte) ([]finding, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, data, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	if ast.IsGenerated(file) {
		return nil, nil
	}
	lines := strings.Split(string(data), "\n")
	cgo := cgoPreambles(file)
	var found []finding
	for _, group := range file.Comments {
		if slices.Contains(cgo, group) {
			continue
		}
		for _, comment := range group.List {
			if directive.MatchString(comment.Text) {
				continue
			}
			if output.MatchString(comment.Text) {
				break // do not check the output of an example
			}
			first := fset.PositionFor(comment.Pos(), false).Line
			for i, text := range strings.Split(comment.Text, "\n") {
				line := strings.TrimSuffix(lines[first-1+i], "\r")
				alone := strings.TrimSpace(line) == strings.TrimSpace(text)
				if w := width(line); w > limit && !(alone && oneWord(strings.TrimPrefix(text, "//"))) {
					found = append(found, finding{first + i, w})
				}
			}
		}
	}
	return found, nil
}

// cgoPreambles returns the comments that contain C code.
func cgoPreambles(file *ast.File) (out []*ast.CommentGroup) {
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.IMPORT {
			continue
		}
		for _, spec := range gen.Specs {
			if imp := spec.(*ast.ImportSpec); imp.Path.Value == `"C"` {
				out = append(out, gen.Doc, imp.Doc)
			}
		}
	}
	return out
}

var (
	fence  = regexp.MustCompile("^[\\s>]*(?:(?:[-*+]|\\d+[.)])\\s+)?(`{3,}|~{3,})(.*)$")
	marker = regexp.MustCompile(`^[\s>]*(?:(?:[-*+]|\d+[.)]|\[[^\]]+\]:)\s+)*`)
)

// checkMarkdown checks the lines outside tables and code blocks.
func checkMarkdown(text string) (found []finding) {
	open := "" // the fence of the open code block
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		if m := fence.FindStringSubmatch(line); m != nil {
			switch {
			case open == "" && !strings.Contains(m[2], "`"):
				open = m[1]
				continue
			case open != "" && strings.HasPrefix(m[1], open) && strings.TrimSpace(m[2]) == "":
				open = ""
				continue
			}
		}
		if open != "" || strings.HasPrefix(strings.TrimSpace(line), "|") {
			continue
		}
		if w := width(line); w > limit && !oneWord(marker.ReplaceAllString(line, "")) {
			found = append(found, finding{i + 1, w})
		}
	}
	return found
}
