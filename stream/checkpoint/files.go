package checkpoint

import "github.com/tensorferry/tensorferry/internal/fsx"

// Files returns the names of the files in a Store's folder, relative to the folder, as patterns in
// the form of filepath.Match. No source may read these files as input.
func Files() []string {
	return []string{
		"lock", runPrefix + "*/" + markerName, runPrefix + "*/" + chkPrefix + "[0-9]*[0-9]",
		fsx.TempPrefix + "*", runPrefix + "*/" + fsx.TempPrefix + "*",
	}
}

// Files returns what the function Files returns.
func (s *Store) Files() []string { return Files() }
