package integration

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// conformanceRows is how many rows docs/conformance.md has.
const conformanceRows = 59

// reference is a test as the documents name it: package.Test, package.Test/subtest, or a
// transcript.
var reference = regexp.MustCompile("`(?:([a-z/]+)\\.((?:Test|Fuzz|Example)[A-Za-z0-9_]*)(?:/([^`]*))?|([a-z/]+/testdata/[^`]+))`")

// TestConformance: every row is in docs/conformance.md, with tests, and every test that it or
// docs/semantics.md names is there.
func TestConformance(t *testing.T) {
	row := regexp.MustCompile(`^\| (\d+) \| [^|]+ \| (.+) \|$`)
	next := 1
	for _, line := range strings.Split(document(t, "conformance.md"), "\n") {
		m := row.FindStringSubmatch(line)
		if m == nil {
			if len(line) > 2 && line[0] == '|' && line[2] >= '0' && line[2] <= '9' {
				t.Errorf("a row that cannot be read: %s", line)
			}
			continue
		}
		if m[1] != strconv.Itoa(next) {
			t.Errorf("row %s stands where row %d should", m[1], next)
		}
		next++
		rest := strings.TrimSpace(reference.ReplaceAllString(m[2], ""))
		if !reference.MatchString(m[2]) || rest != "" {
			t.Errorf("row %s names no test, or something else (%q)", m[1], rest)
		}
	}
	if next != conformanceRows+1 {
		t.Errorf("%d rows, want %d", next-1, conformanceRows)
	}

	tests := testIndex{}
	named := map[string]bool{}
	for _, doc := range []string{"conformance.md", "semantics.md"} {
		n := 0
		for _, m := range reference.FindAllStringSubmatch(document(t, doc), -1) {
			if err := tests.find(m[1], m[2], m[3], m[4]); err != nil {
				t.Errorf("%s: %s: %v", doc, m[0], err)
			}
			named[m[1]+m[2]+m[4]] = true
			n++
		}
		if n < 50 {
			t.Errorf("%s names only %d tests", doc, n)
		}
	}
	// Transcripts are there to be rows: none may be forgotten.
	files, err := filepath.Glob("../internal/asyncq/testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, f := range files {
		if name := "internal/asyncq/testdata/" + filepath.Base(f); !named[name] {
			t.Errorf("no document names the transcript %s", name)
		}
	}
}

// The test above is only worth something if it refuses what is not there.
func TestReferencesAreRefused(t *testing.T) {
	tests := testIndex{}
	for _, c := range [][4]string{
		{"async", "TestNothing", "", ""},
		{"async", "TestFailures", "18, 19 a failing", ""},
		{"async", "TestFailures", "7 ordered", ""}, // of another test
		{"nowhere", "TestFailures", "", ""},
		{"", "", "", "internal/asyncq/testdata/nothing.txt"},
	} {
		if err := tests.find(c[0], c[1], c[2], c[3]); err == nil {
			t.Errorf("%v was found", c)
		}
	}
	if err := tests.find("async", "TestRetries", "33 to 36 attempts of 501 ms", ""); err != nil {
		t.Error(err)
	}
}

func document(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("../docs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// testIndex holds, for each package folder, its test functions and the strings in each of them.
type testIndex map[string]map[string][]string

// find says why a test does not exist. A subtest's name must stand in the test as a string of its
// own, or be what a format begins with.
func (x testIndex) find(pkg, test, sub, transcript string) error {
	if transcript != "" {
		_, err := os.Stat("../" + transcript)
		return err
	}
	if x[pkg] == nil {
		found, err := testsOf("../" + pkg)
		if err != nil {
			return err
		}
		x[pkg] = found
	}
	texts, ok := x[pkg][test]
	if !ok {
		return fmt.Errorf("package %s has no such test", pkg)
	}
	if sub == "" {
		return nil
	}
	for _, s := range texts {
		if format, _, ok := strings.Cut(s, "%"); s == sub || ok && strings.HasPrefix(format, sub) {
			return nil
		}
	}
	return fmt.Errorf("%s has no subtest of that name", test)
}

// testsOf reads the test files of a folder.
func testsOf(dir string) (map[string][]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no tests", dir)
	}
	all := map[string][]string{}
	for _, f := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		maps.Insert(all, maps.All(testFuncs(parsed)))
	}
	return all, nil
}

func testFuncs(f *ast.File) map[string][]string {
	found := map[string][]string{}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || fn.Body == nil {
			continue
		}
		texts := []string{}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil {
					texts = append(texts, s)
				}
			}
			return true
		})
		found[fn.Name.Name] = texts
	}
	return found
}
