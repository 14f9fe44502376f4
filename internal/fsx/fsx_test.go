package fsx

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"testing"
)

func TestOS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := MkdirAll(OS, dir, Shared); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "f")
	for _, data := range []string{"first", "2nd"} {
		if err := WriteFile(OS, name, []byte(data)); err != nil {
			t.Fatal(err)
		}
		if b, err := OS.ReadFile(name); err != nil || string(b) != data {
			t.Fatalf("read %q, %v; want %q", b, err, data)
		}
	}
	if _, err := OS.Create(name); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create of a name that is taken: %v", err)
	}
	f, err := OS.Append(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("+")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := OS.Append(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Append to nothing: %v", err)
	}
	list, err := OS.ReadDir(dir)
	if err != nil || len(list) != 1 || list[0] != (Entry{Name: "f", Size: 4}) {
		t.Errorf("folder holds %v, %v; want f of 4 bytes alone", list, err)
	}
	if err := MkdirAll(OS, name, Shared); err == nil {
		t.Error("MkdirAll over a file passed")
	}
}

// holdLock makes the test binary a process that takes a lock and waits.
const holdLock = "FSX_TEST_HOLD_LOCK"

// held is the lock of such a process. A lock that nothing refers to is released when its memory is
// collected.
var held io.Closer

func TestMain(m *testing.M) {
	if name := os.Getenv(holdLock); name != "" {
		var err error
		if held, err = OS.Lock(name); err != nil {
			os.Exit(3)
		}
		runtime.GC()
		os.Stdout.WriteString("held\n")
		// Wait until the process is killed. The runtime could take an empty select for a deadlock.
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, os.Interrupt)
		<-asked
		runtime.KeepAlive(held)
	}
	os.Exit(m.Run())
}

func TestLockNamesItsHolderAndEndsWithIt(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), holdLock+"="+name)
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("the holder said %q, %v", line, err)
	}
	_, err = OS.Lock(name)
	locked, ok := errors.AsType[*LockedError](err)
	if !ok || locked.PID != holder.Process.Pid {
		t.Errorf("the second lock: %v; want the holder's id %d", err, holder.Process.Pid)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait() // it was killed, so this is an error
	l, err := OS.Lock(name)
	if err != nil {
		t.Fatalf("the lock of a killed process is not free: %v", err)
	}
	if _, err := OS.Lock(name); !errors.As(err, &locked) || locked.PID != os.Getpid() {
		t.Errorf("a second lock of the same process: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = OS.Lock(name); err != nil {
		t.Fatalf("after Close: %v", err)
	}
	l.Close()
}
