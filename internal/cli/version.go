package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

const versionDetails = "Prints the version, the commit, the Go release and the platform of this build.\n"

func version(c *Call) int {
	if _, code, ok := c.Parse(c.Flags(), 0, "no arguments"); !ok {
		return code
	}
	parts := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if name := c.program.Parts[m.Path]; name != "" {
				parts += fmt.Sprintf(", %s %s", name, m.Version)
			}
		}
	}
	fmt.Fprintf(c.Stdout, "%s %s%s, %s, %s/%s\n", c.program.Name, Version(), parts, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return OK
}

// Version returns the version of the program's module, and its commit if the build knows it.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "of unknown version"
	}
	version, dirty := info.Main.Version, ""
	if version == "" {
		version = "(devel)"
	}
	revision := ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = ", modified"
			}
		}
	}
	if revision == "" {
		return version
	}
	return fmt.Sprintf("%s (commit %.12s%s)", version, revision, dirty)
}
