//go:build integration

// Package flinkenv runs a real Flink cluster for tests: a JobManager and TaskManagers, each a
// process of its own, and Beam's job server in front of them, made from Maven's artifacts. It needs
// a JDK 17 and Maven.
//
// Flink listens on loopback only. Beam's servers listen on all interfaces, because Beam uses only
// the port of the address that it gets. They are the job server and, while a pipeline runs, some in
// each TaskManager.
//
// Only tests with the build tag integration may import it.
package flinkenv

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/internal/pyenv"
)

// pom names the versions of Flink and of Beam's runner, and what they need at run time.
//
//go:embed testdata/pom.xml
var pom []byte

// jobServer is a class loader for Beam's job server.
//
//go:embed testdata/JobServer.java
var jobServer []byte

// Options say what cluster to start. Zero values are one TaskManager with one slot.
type Options struct {
	TaskManagers int
	Slots        int // of each TaskManager
	// Settings are lines of Flink's configuration, in addition to the cluster's own.
	Settings map[string]string
	// Dir receives everything that the cluster writes, with checkpoints in "checkpoints" and
	// savepoints in "savepoints". Empty: a temporary folder of the test.
	Dir string
	// NoJobServer leaves Beam's job server out.
	NoJobServer bool
	// Classpath lists further jars and folders of classes for every process of the cluster.
	// They are loaded once. Classes that Flink ships with a job are loaded and compiled again
	// for each job.
	Classpath []string
	// Heap of a TaskManager in MiB. Default 512.
	Heap int
}

// Cluster is a session cluster: it runs any number of jobs, until the end of the test.
type Cluster struct {
	JobManager *pyenv.Process
	// TaskManagers may be killed; RestartTaskManager starts one again.
	TaskManagers []*pyenv.Process
	// BeamJobServer is nil without one.
	BeamJobServer *pyenv.Process

	t        testing.TB
	o        Options
	dir      string
	libs     string
	settings map[string]string
	restPort int
	jobPort  int
}

// Libs returns the folder with the jars of Flink and of Beam's runner. It fetches them if they are
// missing.
func Libs() (string, error) {
	dir, err := pyenv.Folder("flink", pom, func(dir string) error { return CopyDependencies(dir, pom) })
	return filepath.Join(dir, "lib"), err
}

// CopyDependencies writes the run-time dependencies of a pom into dir/lib.
func CopyDependencies(dir string, pom []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "pom.xml"), pom, 0o644); err != nil {
		return err
	}
	cmd := exec.Command("mvn", "-q", "-B", "-ntp", "dependency:copy-dependencies", "-DoutputDirectory=lib", "-DincludeScope=runtime")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd, err, out)
	}
	return nil
}

// Start starts a cluster and returns when all TaskManagers are registered and the job server
// listens.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	libs, err := Libs()
	if err != nil {
		t.Fatalf("Flink: %v", err)
	}
	o.TaskManagers, o.Slots = max(o.TaskManagers, 1), max(o.Slots, 1)
	if o.Heap == 0 {
		o.Heap = 512
	}
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	c := &Cluster{
		t: t, o: o, dir: o.Dir, restPort: pyenv.FreePort(t), TaskManagers: make([]*pyenv.Process, o.TaskManagers),
		libs: libs,
	}
	c.settings = c.common(pyenv.FreePort(t))
	maps.Copy(c.settings, o.Settings)
	c.JobManager = c.start("jobmanager", c.Java(512, jobManagerClass, "--configDir", c.configure("jobmanager")))
	c.JobManager.Eventually("the JobManager answers", func() bool { _, err := c.overview(); return err == nil })
	for i := range c.TaskManagers {
		c.startTaskManager(i)
	}
	c.awaitTaskManagers()
	if !o.NoJobServer {
		c.startJobServer()
	}
	return c
}

const (
	jobManagerClass  = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
	jobServerClass   = "org.apache.beam.runners.flink.FlinkJobServerDriver"
	taskManagerClass = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
)

// common are the settings of every process and of clients.
func (c *Cluster) common(rpcPort int) map[string]string {
	return map[string]string{
		"jobmanager.rpc.address": "127.0.0.1", "jobmanager.bind-host": "127.0.0.1", "jobmanager.rpc.port": fmt.Sprint(rpcPort),
		"rest.address": "127.0.0.1", "rest.bind-address": "127.0.0.1", "rest.port": fmt.Sprint(c.restPort),
		"taskmanager.host": "127.0.0.1", "taskmanager.bind-host": "127.0.0.1",
		"taskmanager.numberOfTaskSlots": fmt.Sprint(c.o.Slots),
		// A TaskManager does not start without these. Flink's own scripts would compute
		// them.
		"taskmanager.cpu.cores":                           fmt.Sprintf("%d.0", c.o.Slots),
		"taskmanager.memory.task.heap.size":               fmt.Sprintf("%dm", c.o.Heap/2),
		"taskmanager.memory.framework.heap.size":          fmt.Sprintf("%dm", c.o.Heap/2),
		"taskmanager.memory.task.off-heap.size":           "0m",
		"taskmanager.memory.network.min":                  "64m",
		"taskmanager.memory.network.max":                  "64m",
		"taskmanager.memory.managed.size":                 "64m",
		"taskmanager.memory.framework.off-heap.size":      "128m",
		"taskmanager.memory.jvm-metaspace.size":           "256m",
		"taskmanager.memory.jvm-overhead.min":             "64m",
		"taskmanager.memory.jvm-overhead.max":             "64m",
		"taskmanager.registration.timeout":                "60 s",
		"cluster.registration.initial-timeout":            "100",
		"cluster.registration.max-timeout":                "1000",
		"cluster.registration.error-delay":                "500",
		"cluster.registration.refused-registration-delay": "500",
		// Flink notices a killed TaskManager after two heartbeats that could not be
		// delivered. A TaskManager that only stalls, on a slow machine, is not lost.
		"heartbeat.interval": "1000", "heartbeat.timeout": "60000",
		"restart-strategy.type": "fixed-delay", "restart-strategy.fixed-delay.attempts": "100", "restart-strategy.fixed-delay.delay": "200 ms",
		"state.backend.type":    "hashmap",
		"state.checkpoints.dir": "file://" + c.CheckpointDir(), "state.savepoints.dir": "file://" + c.SavepointDir(),
		"execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
		// Everything that jobs use is in the cluster's class path. Classes that the job
		// server ships must not be loaded a second time.
		"classloader.resolve-order": "parent-first",
	}
}

// configure writes the configuration folder of a process and returns it.
func (c *Cluster) configure(name string) string {
	c.t.Helper()
	tmp := filepath.Join(c.dir, name, "tmp")
	for _, dir := range []string{tmp, c.CheckpointDir(), c.SavepointDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			c.t.Fatal(err)
		}
	}
	all := maps.Clone(c.settings)
	all["io.tmp.dirs"], all["web.tmpdir"] = tmp, tmp
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&text, "%s: %s\n", key, all[key])
	}
	if err := os.WriteFile(filepath.Join(c.dir, name, "flink-conf.yaml"), []byte(text.String()), 0o644); err != nil {
		c.t.Fatal(err)
	}
	return filepath.Join(c.dir, name)
}

// opened lists packages of java.base that Flink's serializers and network stack access by
// reflection, and that Java 17 closes by default.
var opened = []string{
	"java.io", "java.lang", "java.lang.invoke", "java.lang.reflect", "java.net", "java.nio", "java.text", "java.time", "java.util",
	"java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks", "sun.nio.ch", "sun.net.util",
}

// Java returns a command that runs a class with the class path and the options of the cluster's
// processes. It is for clients of the cluster.
func (c *Cluster) Java(heap int, class string, args ...string) *exec.Cmd {
	path := append([]string{filepath.Join(c.libs, "*")}, c.o.Classpath...)
	return c.java(heap, append([]string{"-cp", strings.Join(path, string(os.PathListSeparator)), class}, args...)...)
}

func (c *Cluster) java(heap int, args ...string) *exec.Cmd {
	options := []string{
		fmt.Sprintf("-Xms%dm", heap/2), fmt.Sprintf("-Xmx%dm", heap), "-XX:+UseSerialGC",
		// Write no files outside the cluster's folder, not even those for jps.
		"-XX:-UsePerfData", "-Djava.io.tmpdir=" + c.dir,
		"-Djava.net.preferIPv4Stack=true",
		"-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
		// These log the whole configuration and the class path, line by line.
		"-Dorg.slf4j.simpleLogger.log.org.apache.flink.configuration.GlobalConfiguration=warn",
		"-Dorg.slf4j.simpleLogger.log.org.apache.flink.runtime.util.EnvironmentInformation=warn",
	}
	for _, p := range opened {
		options = append(options, "--add-opens=java.base/"+p+"=ALL-UNNAMED")
	}
	return exec.Command("java", append(options, args...)...)
}

func (c *Cluster) start(name string, cmd *exec.Cmd) *pyenv.Process {
	c.t.Helper()
	cmd.Dir = filepath.Join(c.dir, name)
	return pyenv.Start(c.t, cmd)
}

func (c *Cluster) startTaskManager(i int) {
	c.t.Helper()
	name := fmt.Sprintf("taskmanager-%d", i)
	c.TaskManagers[i] = c.start(name, c.Java(c.o.Heap, taskManagerClass, "--configDir", c.configure(name)))
}

// RestartTaskManager starts a TaskManager that was killed, and returns when it is registered.
func (c *Cluster) RestartTaskManager(i int) {
	c.t.Helper()
	if !c.TaskManagers[i].Over() {
		c.t.Fatalf("TaskManager %d runs already", i)
	}
	c.startTaskManager(i)
	c.awaitTaskManagers()
}

// awaitTaskManagers returns when the JobManager knows exactly the TaskManagers that run.
func (c *Cluster) awaitTaskManagers() {
	c.t.Helper()
	var running []*pyenv.Process
	for _, p := range c.TaskManagers {
		if !p.Over() {
			running = append(running, p)
		}
	}
	c.JobManager.Eventually(fmt.Sprintf("%d TaskManagers are registered", len(running)), func() bool {
		if slices.ContainsFunc(running, (*pyenv.Process).Over) {
			c.t.Fatal("a TaskManager ended before it was registered")
		}
		o, err := c.overview()
		// A TaskManager's slots are registered a moment after it.
		return err == nil && o.TaskManagers == len(running) && o.Slots == len(running)*c.o.Slots
	})
}

func (c *Cluster) startJobServer() {
	c.t.Helper()
	c.jobPort = pyenv.FreePort(c.t)
	conf := c.configure("jobserver")
	// The class path has this jar only, because the job server uploads its class path with
	// every job.
	classes := filepath.Join(conf, "classes")
	source := filepath.Join(conf, "JobServer.java")
	if err := errors.Join(os.Mkdir(classes, 0o755), os.WriteFile(source, jobServer, 0o644)); err != nil {
		c.t.Fatal(err)
	}
	jar := filepath.Join(conf, "loader.jar")
	for _, cmd := range []*exec.Cmd{exec.Command("javac", "-d", classes, source), exec.Command("jar", "--create", "--file", jar, "-C", classes, ".")} {
		if out, err := cmd.CombinedOutput(); err != nil {
			c.t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
	}
	c.BeamJobServer = c.start("jobserver", c.java(512, "-cp", jar, "-Djava.system.class.loader=JobServer", "-Djars="+c.libs, jobServerClass,
		"--flink-master", c.REST(), "--flink-conf-dir", conf,
		"--job-host", "127.0.0.1", "--job-port", fmt.Sprint(c.jobPort), "--artifact-port", "0", "--expansion-port", "0",
		"--artifacts-dir", filepath.Join(conf, "artifacts")))
	c.BeamJobServer.Eventually("the job server listens", func() bool {
		conn, err := net.Dial("tcp", c.JobServer())
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// JobServer returns the address at which Beam's job server accepts pipelines, as host:port.
func (c *Cluster) JobServer() string { return fmt.Sprintf("127.0.0.1:%d", c.jobPort) }

// REST returns the address of Flink's own interface, as host:port.
func (c *Cluster) REST() string { return fmt.Sprintf("127.0.0.1:%d", c.restPort) }

// CheckpointDir returns the folder of the checkpoints, with a folder for each job.
func (c *Cluster) CheckpointDir() string { return filepath.Join(c.dir, "checkpoints") }

// SavepointDir returns the folder of the savepoints, with a folder for each one.
func (c *Cluster) SavepointDir() string { return filepath.Join(c.dir, "savepoints") }
