package checkpoint

import "github.com/tensorferry/tensorferry/internal/fsx"

// Files are the names that the files of a Store have, from its folder on, as patterns in the form
// of filepath.Match. None of them is anybody's input.
func Files() []string {
	return []string{
		"lock", runPrefix + "*/" + markerName, runPrefix + "*/" + chkPrefix + "[0-9]*[0-9]",
		fsx.TempPrefix + "*", runPrefix + "*/" + fsx.TempPrefix + "*",
	}
}

// Files is the function of that name.
func (s *Store) Files() []string { return Files() }
