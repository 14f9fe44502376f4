package server

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A name that passes the check is that of a folder directly in the repository's folder.
func FuzzModelName(f *testing.F) {
	for _, s := range []string{"digits", "..", "../x", "/etc", "a\x00b", "a/b", `a\b`, "c:", ".", "a..", "\xff", strings.Repeat("x", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if checkName(name) != nil {
			return
		}
		at := filepath.Join("/models", name)
		if filepath.Dir(at) != "/models" || filepath.Base(at) != name || !filepath.IsLocal(name) || len(name) > maxName || strings.ContainsAny(name, "\x00/\\") {
			t.Errorf("%q passes as a name, but leads to %q", name, at)
		}
	})
}

func TestCompareVersions(t *testing.T) {
	got := []string{"10", "beta", "9", "99999999999999999999999", "1", "alpha", "01"}
	slices.SortFunc(got, compareVersions)
	if want := []string{"alpha", "beta", "01", "1", "9", "10", "99999999999999999999999"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
