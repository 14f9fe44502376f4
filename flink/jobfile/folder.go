package jobfile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tensorferry/tensorferry/connector"
	"github.com/tensorferry/tensorferry/internal/fsx"
	"github.com/tensorferry/tensorferry/job"
)

// markName is the name of the file that says which job's results are in a folder.
const markName = ".tensorferry-flink.json"

// folderMark says which job wrote a folder's results. Only the same job continues with them.
type folderMark struct {
	Job string `json:"job"`
	// Input is a checksum over the splits of the source.
	Input string `json:"input"`
	// Model and Fields say how the results were made.
	Model  string          `json:"model"`
	Fields json.RawMessage `json:"fields"`
}

// origin has the properties that identify the splits of an input. A split's description may have
// more, now or in later versions, and that must not change the owner of a folder.
type origin struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	Start  int64  `json:"start"`
	End    int64  `json:"end"`
	Prefix string `json:"prefix"`
}

func originOf(s connector.Split) (in origin, err error) {
	err = json.Unmarshal(s.Data, &in)
	return in, err
}

func markOf(spec *job.Spec, splits []connector.Split) (folderMark, error) {
	h := sha256.New()
	for _, s := range splits {
		data := s.Data
		if in, err := originOf(s); err == nil {
			if data, err = json.Marshal(in); err != nil {
				return folderMark{}, err
			}
		}
		fmt.Fprintf(h, "%d %d %s\n", s.Start, len(data), data)
	}
	i := &spec.Infer
	fields, err := json.Marshal([]any{i.Inputs, i.Outputs, i.OnError, i.Overwrite, i.Version})
	return folderMark{Job: spec.Name, Input: hex.EncodeToString(h.Sum(nil)), Model: i.Model, Fields: fields}, err
}

// sinks returns the folders of a job's results and dead letters, by their keys in the job file.
func sinks(spec *job.Spec) map[string]string {
	all := map[string]string{}
	if f := spec.Sink.File; f != nil {
		all["sink.file.path"] = f.Path
	}
	if d := spec.DeadLetter; d != nil && d.File != nil {
		all["dead_letter.file.path"] = d.File.Path
	}
	return all
}

// claim marks the folders of a job's sinks as its own. With resumed, the job continues with the
// results that it left there. Otherwise a folder with results is refused, because results of two
// jobs would be mixed.
func claim(spec *job.Spec, splits []connector.Split, resumed bool) (err error) {
	mark, err := markOf(spec, splits)
	if err != nil {
		return err
	}
	text, err := json.Marshal(mark)
	if err != nil {
		return err
	}
	// Make all folders first: only then does it show whether two names are of one folder.
	var made []string
	defer func() {
		if err != nil {
			unmake(made)
		}
	}()
	var errs []error
	for path, dir := range sinks(spec) {
		_, absent := os.Stat(dir)
		if err := fsx.MkdirAll(fsx.OS, dir, fsx.Shared); err != nil {
			errs = append(errs, spec.Fault(path, "%v", err))
		} else if errors.Is(absent, fs.ErrNotExist) {
			made = append(made, dir)
		}
	}
	if errs != nil {
		return errors.Join(errs...)
	}
	if f, d := spec.Sink.File, spec.DeadLetter; f != nil && d != nil && d.File != nil && sameFolder(f.Path, d.File.Path) {
		// The files in the two folders have the same names.
		return spec.Fault("dead_letter.file.path", "want another folder than the sink's; %s is the same as %s", d.File.Path, f.Path)
	}
	for path, dir := range sinks(spec) {
		if err := claimFolder(dir, text, resumed); err != nil {
			errs = append(errs, spec.Fault(path, "%v", err))
		}
	}
	return errors.Join(errs...)
}

// unmake removes folders that were made for a job that was refused. They contain only its mark. A
// folder in which another program has put a file since stays.
func unmake(dirs []string) {
	for _, dir := range dirs {
		_ = os.Remove(filepath.Join(dir, markName))
		_ = os.Remove(dir)
	}
}

// sameFolder reports whether two names are of one existing folder.
func sameFolder(a, b string) bool {
	at, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(at, other)
}

// claimFolder marks an existing folder as a job's own.
func claimFolder(dir string, mark []byte, resumed bool) error {
	// Do not use filepath.Glob: the folder's own name may contain pattern characters.
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var parts, pending []string
	for _, f := range files {
		switch name := f.Name(); {
		case strings.HasPrefix(name, "part-"):
			parts = append(parts, name)
		case strings.HasPrefix(name, pendingPrefix):
			pending = append(pending, name)
		}
	}
	at := filepath.Join(dir, markName)
	old, err := os.ReadFile(at)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case len(parts) > 0 && !resumed:
		return fmt.Errorf("%s contains %d files of results (%s, ...); want an empty folder, or --resume to continue the job that wrote them", dir, len(parts), parts[0])
	case len(parts) > 0 && err != nil:
		return fmt.Errorf("%s contains results (%s, ...) without a mark of the job that wrote them; want an empty folder", dir, parts[0])
	case len(parts) > 0 && !bytes.Equal(old, mark):
		return fmt.Errorf("%s contains results of %.300s, and this job is %.300s; want the former job file and input, or an empty folder", dir, old, mark)
	}
	// Pending files of an earlier submission belong to no running job.
	for _, p := range pending {
		if err := os.Remove(filepath.Join(dir, p)); err != nil {
			return err
		}
	}
	if err == nil && bytes.Equal(old, mark) {
		return nil
	}
	// Write it whole or not at all: with half a mark no job could continue with the results.
	if err := fsx.WriteFile(fsx.OS, at, mark); err != nil {
		return err
	}
	return fsx.OS.Share(at) // workers may run as other users
}
