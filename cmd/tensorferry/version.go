package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

func versionCommand(w *world, args []string) int {
	if _, code, ok := parse(w, flags("version"), args, 0, "no arguments"); !ok {
		return code
	}
	fmt.Fprintf(w.stdout, "tensorferry %s, %s, %s/%s\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return exitOK
}

// buildVersion is the module's version, and the commit if it was built from one.
func buildVersion() string {
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
