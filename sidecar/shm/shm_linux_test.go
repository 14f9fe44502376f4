package shm

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// inTemp makes a test's objects in their own folder, so that tests do not sweep other objects.
func inTemp(t *testing.T) string {
	t.Helper()
	before := folder
	folder = t.TempDir()
	t.Cleanup(func() { folder = before })
	return folder
}

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestSegment(t *testing.T) {
	dir := inTemp(t)
	s, err := Create(12345)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	path := filepath.Join(dir, s.Key())
	info, err := os.Stat(path)
	if err != nil || info.Size() != 12345 || info.Mode() != 0o600 || len(s.Bytes()) != 12345 {
		t.Fatalf("%v %v, %d bytes mapped", info, err, len(s.Bytes()))
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := s.Unlink(); err != nil || len(names(t, dir)) != 0 {
		t.Errorf("after Unlink: %v, %v", err, names(t, dir))
	}
	copy(s.Bytes()[12000:], "still there")
	got := make([]byte, 11)
	if _, err := f.ReadAt(got, 12000); err != nil || string(got) != "still there" {
		t.Errorf("an open file reads %q, %v after Unlink", got, err)
	}
	if err := errors.Join(s.Unlink(), s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	other, err := Create(1)
	if err != nil {
		t.Fatal(err)
	}
	if other.Key() == s.Key() {
		t.Errorf("the name %s twice", s.Key())
	}
	if err := other.Close(); err != nil || len(names(t, dir)) != 0 {
		t.Errorf("after Close: %v, %v", err, names(t, dir))
	}
}

func TestCreateWithoutRoom(t *testing.T) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(folder, &fs); err != nil {
		t.Fatal(err)
	}
	if s, err := Create(int(fs.Blocks+1) * int(fs.Bsize)); err == nil {
		s.Close()
		t.Error("an object larger than its file system was made")
	} else if !strings.Contains(err.Error(), "no room") {
		t.Errorf("the error does not say what is missing: %v", err)
	}
	dir := inTemp(t)
	if _, err := Create(0); err == nil {
		t.Error("an empty object was made")
	}
	if left := names(t, dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestSweep(t *testing.T) {
	dir := inTemp(t)
	living, err := Create(10)
	if err != nil {
		t.Fatal(err)
	}
	defer living.Close()
	dead := filepath.Join(dir, prefix+strings.Repeat("D", len(living.Key())-1-len(prefix)))
	for _, path := range []string{dead, filepath.Join(dir, "somebody-elses"), filepath.Join(dir, prefix+"another")} {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(dead, dead[:len(dead)-1]+"L"); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(); err != nil {
		t.Fatal(err)
	}
	left := strings.Join(names(t, dir), " ")
	if strings.Contains(left, filepath.Base(dead)) {
		t.Errorf("the dead process's object is still there: %s", left)
	}
	for _, want := range []string{living.Key()[1:], "somebody-elses", prefix + "another", "L"} {
		if !strings.Contains(left, want) {
			t.Errorf("%s was removed: %s", want, left)
		}
	}
}

// A process that is killed leaves an object and a claim. The object is swept, the claim is dead.
func TestAfterKill(t *testing.T) {
	if dir := os.Getenv("SHM_TEST_FOLDER"); dir != "" {
		folder = dir
		s, err := Create(100)
		c, err2 := NewClaim()
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString(s.Key() + " " + c.Name() + "\n")
		select {}
	}
	dir := inTemp(t)
	cmd := exec.Command(os.Args[0], "-test.run", "^TestAfterKill$")
	cmd.Env = append(os.Environ(), "SHM_TEST_FOLDER="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var line []byte
	for b := make([]byte, 1); !bytes.HasSuffix(line, []byte("\n")); line = append(line, b...) {
		if _, err := out.Read(b); err != nil {
			t.Fatalf("after %q: %v", line, err)
		}
	}
	_, claim, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
	if err := Sweep(); err != nil || len(names(t, dir)) != 1 || Dead(claim) || Dead(claim+"-3") {
		t.Errorf("while it lives: %v, %v, dead %v", err, names(t, dir), Dead(claim))
	}
	cmd.Process.Kill()
	cmd.Wait()
	if err := Sweep(); err != nil || len(names(t, dir)) != 0 || !Dead(claim) || !Dead(claim+"-3") {
		t.Errorf("after its death: %v, %v, dead %v", err, names(t, dir), Dead(claim))
	}
}

func TestClaim(t *testing.T) {
	c, err := NewClaim()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Free()
	if Dead(c.Name()) {
		t.Error("a claim that is held counts as dead")
	}
	place, id, ok := split(c.Name() + "-12")
	if !ok || place == "" {
		t.Fatalf("%s is not a claim's name", c.Name())
	}
	for _, name := range []string{
		"", "input0", prefix, prefix + place, prefix + place + "-", prefix + place + "-short",
		prefix + "elsewhere-" + id, prefix + "unknown-" + id, "other-" + place + "-" + id,
	} {
		if Dead(name) {
			t.Errorf("%q does not name a claim of this place, but counts as dead", name)
		}
	}
	c.Free()
	c.Free()
	if !Dead(c.Name()) {
		t.Error("a claim that was freed is not dead")
	}
}
