//go:build integration

package flink

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/tensorferry/tensorferry/internal/flinkenv"
	"github.com/tensorferry/tensorferry/internal/pyenv"
)

func TestMain(m *testing.M) { pyenv.Main(m) }

// TestCluster: the cluster of these tests is what it says, survives the loss of a TaskManager,
// listens to nobody outside of the machine and leaves nothing.
func TestCluster(t *testing.T) {
	var dir string
	var processes []*pyenv.Process
	var ports []string
	t.Run("runs", func(t *testing.T) {
		c := flinkenv.Start(t, flinkenv.Options{TaskManagers: 2, Slots: 2})
		dir = filepath.Dir(c.CheckpointDir())
		ports = []string{c.REST(), c.JobServer()}
		if o := c.Overview(); o.TaskManagers != 2 || o.Slots != 4 || o.FreeSlots != 4 || o.Version != "1.19.0" {
			t.Errorf("%+v", o)
		}
		if jobs := c.Jobs(); len(jobs) != 0 {
			t.Errorf("jobs on a new cluster: %+v", jobs)
		}
		for _, tm := range c.Registered() {
			if tm.Slots != 2 {
				t.Errorf("%+v", tm)
			}
		}
		processes = append([]*pyenv.Process{c.JobManager, c.BeamJobServer}, c.TaskManagers...)
		for _, p := range append([]*pyenv.Process{c.JobManager}, c.TaskManagers...) {
			addrs := listening(t, p.PID())
			if len(addrs) == 0 {
				t.Errorf("process %d listens nowhere: what this test looks at is not what there is", p.PID())
			}
			for _, a := range addrs {
				if !a.IP.IsLoopback() {
					t.Errorf("process %d listens on %v", p.PID(), a)
				}
			}
		}
		conn, err := net.Dial("tcp", c.JobServer())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()

		c.TaskManagers[1].Kill()
		c.JobManager.Eventually("the JobManager misses it", func() bool { return c.Overview().TaskManagers == 1 })
		c.RestartTaskManager(1)
		processes = append(processes, c.TaskManagers[1])
		if o := c.Overview(); o.TaskManagers != 2 || o.Slots != 4 {
			t.Errorf("after a restart: %+v", o)
		}
	})
	for _, p := range processes {
		if err := syscall.Kill(p.PID(), 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d is still there: %v", p.PID(), err)
		}
	}
	for _, addr := range ports {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			t.Errorf("somebody still listens on %s", addr)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}

// TestControl: what tests ask of Flink is what it does.
func TestControl(t *testing.T) {
	m := startModel(t)
	c := startFlink(t, false)
	endless := load{records: 1_000_000, perSecond: 100}
	result := filepath.Join(t.TempDir(), "result.json")

	id := submitAsyncJob(t, c, m, endless, 1, result)
	if j := c.AwaitTasks(id); j.Name != "orderedWait" || len(j.Vertices) != 1 || j.Vertices[0].Parallelism != 1 {
		t.Errorf("%+v", j)
	}
	c.JobManager.Eventually("two checkpoints", func() bool { return c.Checkpoints(id).Counts.Completed >= 2 })
	// Flink keeps one checkpoint: the next one may remove the one that was just told of.
	c.JobManager.Eventually("the last checkpoint is a completed one and lies where it says", func() bool {
		last := c.Checkpoints(id).Latest.Completed
		if last == nil || last.Status != "COMPLETED" {
			t.Fatalf("%+v", last)
		}
		_, err := os.Stat(filepath.Join(strings.TrimPrefix(last.Path, "file:"), "_metadata"))
		return err == nil
	})
	// The only vertex is source and sink: nothing goes in or out between tasks, but it has its
	// metrics.
	vertex := c.Job(id).Vertices[0].ID
	c.JobManager.Eventually("the job has been busy", func() bool { return c.Metrics(id, vertex, "accumulateBusyTimeMs")["accumulateBusyTimeMs"] > 0 })
	path := c.Savepoint(id)
	if _, err := os.Stat(filepath.Join(strings.TrimPrefix(path, "file:"), "_metadata")); err != nil {
		t.Errorf("savepoint %q: %v", path, err)
	}
	if c.Job(id).State != "RUNNING" {
		t.Error("a savepoint has ended the job")
	}
	c.Cancel(id)

	id = submitAsyncJob(t, c, m, endless, 1, result)
	c.AwaitTasks(id)
	path, err := c.Stop(id, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(strings.TrimPrefix(path, "file:"), "_metadata")); err != nil {
		t.Errorf("savepoint %q: %v", path, err)
	}
	c.Await(id, "FINISHED")

	id = submitAsyncJob(t, c, m, endless, 1, result)
	c.AwaitTasks(id)
	m.Kill()
	c.Await(id, "FAILED")
	if ex := c.Exceptions(id); len(ex) == 0 || !strings.Contains(ex[0].Stacktrace, "io.grpc.StatusRuntimeException") {
		t.Errorf("the failure of a job whose model is gone: %+v", ex)
	}
	if all := c.Jobs(); len(all) != 3 || all[0].State != "CANCELED" || all[1].State != "FINISHED" || all[2].State != "FAILED" {
		t.Errorf("%+v", all)
	}
}

// listening returns where a process listens for TCP.
func listening(t *testing.T, pid int) (addrs []*net.TCPAddr) {
	t.Helper()
	fds, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "fd", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var own []string
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil {
			own = append(own, to) // as socket:[1234]
		}
	}
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "net", table))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(text), "\n")[1:] {
			const listen = "0A"
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != listen || !slices.Contains(own, "socket:["+f[9]+"]") {
				continue
			}
			ip, port, _ := strings.Cut(f[1], ":")
			n, err := strconv.ParseUint(port, 16, 16)
			if err != nil {
				t.Fatal(err)
			}
			addrs = append(addrs, &net.TCPAddr{IP: hostOrder(t, ip), Port: int(n)})
		}
	}
	return addrs
}

// hostOrder reads an address of /proc/net, in which each four bytes are a number of the machine,
// which is little-endian.
func hostOrder(t *testing.T, text string) net.IP {
	t.Helper()
	var ip net.IP
	for word := range slices.Chunk([]byte(text), 8) {
		n, err := strconv.ParseUint(string(word), 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		ip = append(ip, byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
	}
	return ip
}
