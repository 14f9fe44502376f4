//go:build integration

// Package pyenv makes Python virtual environments for tests against other projects' programs, and
// runs those programs. An environment belongs to a file of pinned requirements. It is made once in
// a checkout, and used again as long as that file is unchanged.
//
// Only tests with the build tag integration may import it.
package pyenv

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Env is a virtual environment.
type Env struct {
	// Dir is its folder.
	Dir string
	// libs is the folder of the interpreter's own library. Programs that embed Python must find
	// it, and not another version's.
	libs string
}

// Make returns the environment for a file of requirements. The file's name without the extension is
// the environment's name. The test fails if the environment cannot be made.
//
// Environments lie in integration/.env of the checkout, or in the folder $TENSORFERRY_ENV_DIR. Only
// one test process makes one at a time. An environment gets its stamp when it is complete, so that
// an interrupted one is not used.
func Make(t testing.TB, requirements string) *Env {
	t.Helper()
	e, err := Ensure(requirements)
	if err != nil {
		t.Fatalf("the Python environment of %s: %v", requirements, err)
	}
	return e
}

// Ensure is Make for callers without a test. It returns the error.
func Ensure(requirements string) (*Env, error) {
	text, err := os.ReadFile(requirements)
	if err != nil {
		return nil, err
	}
	python, libs, err := interpreter()
	if err != nil {
		return nil, err
	}
	e := &Env{libs: libs}
	e.Dir, err = Folder(strings.TrimSuffix(filepath.Base(requirements), filepath.Ext(requirements)), append(text, python...), func(dir string) error {
		made := &Env{Dir: dir}
		return run(
			[]string{python, "-m", "venv", dir},
			[]string{made.Python(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "-r", requirements},
		)
	})
	return e, err
}

// run runs commands one after another.
func run(commands ...[]string) error {
	for _, args := range commands {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// Folder returns a folder beside the environments that fill has filled. It is filled once, and
// again when contents change. Only one process fills it at a time, and an incomplete folder is not
// used.
func Folder(name string, contents []byte, fill func(dir string) error) (string, error) {
	root, err := folder()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(root, name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("locking %s: %w", lock.Name(), err)
	}
	dir := filepath.Join(root, name)
	sum := sha256.Sum256(contents)
	stamp := hex.EncodeToString(sum[:])
	// The stamp is written last, when the folder is complete.
	if got, err := os.ReadFile(filepath.Join(dir, "stamp")); err == nil && string(got) == stamp {
		return dir, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := fill(dir); err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "stamp"), []byte(stamp), 0o644)
}

// interpreter finds a Python that is new enough for every program here.
func interpreter() (python, libs string, err error) {
	const ask = `import sys, sysconfig; print(sys.executable, sysconfig.get_config_var("LIBDIR"), sys.version_info >= (3, 11), sys.version_info < (3, 13), sep="\n")`
	tried := []string{"python3.11", "python3", "python3.12"}
	for _, name := range tried {
		out, err := exec.Command(name, "-c", ask).Output()
		if err != nil {
			continue
		}
		said := strings.Split(strings.TrimSpace(string(out)), "\n")
		if len(said) == 4 && said[2] == "True" && said[3] == "True" {
			return said[0], said[1], nil
		}
	}
	return "", "", fmt.Errorf("no Python 3.11 or 3.12 among %s; install one with its venv module", strings.Join(tried, ", "))
}

// folder is where environments lie.
func folder() (string, error) {
	if dir := os.Getenv("TENSORFERRY_ENV_DIR"); dir != "" {
		return filepath.Abs(dir)
	}
	root, err := Root()
	return filepath.Join(root, "integration", ".env"), err
}

// Root returns the folder of the checkout, also from within another module of it.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if mod, err := os.ReadFile(filepath.Join(at, "go.mod")); err == nil && bytes.HasPrefix(mod, []byte("module github.com/tensorferry/tensorferry\n")) {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", errors.New("no folder of the tensorferry checkout: " + dir)
		}
	}
}

// Python returns the interpreter's path.
func (e *Env) Python() string { return filepath.Join(e.Dir, "bin", "python") }

// Command returns a command of the environment's bin folder, such as python or mlserver.
func (e *Env) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(e.Dir, "bin", name), args...)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+e.libs, "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1",
		"PATH="+filepath.Join(e.Dir, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"))
	return cmd
}
