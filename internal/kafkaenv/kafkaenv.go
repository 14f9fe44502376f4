//go:build integration

// Package kafkaenv runs a real Kafka broker for tests: one node, in KRaft mode, made from Maven's
// artifacts. It needs Java 17 or newer and Maven.
//
// Only tests with the build tag integration may import it.
package kafkaenv

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/internal/pyenv"
)

// pom has the broker's version and its run-time dependencies.
//
//go:embed testdata/pom.xml
var pom []byte

// Broker is a broker on loopback. It keeps its address and its data across restarts.
type Broker struct {
	t       testing.TB
	libs    string
	dir     string
	port    int
	process *pyenv.Process
}

// Start starts a broker that runs until the end of the test. settings are further lines of its
// server.properties.
func Start(t testing.TB, settings ...string) *Broker {
	t.Helper()
	libs, err := pyenv.Folder("kafka", pom, func(dir string) error {
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
	})
	if err != nil {
		t.Fatalf("the Kafka broker: %v", err)
	}
	b := &Broker{t: t, libs: filepath.Join(libs, "lib", "*"), dir: t.TempDir(), port: pyenv.FreePort(t)}
	controller := pyenv.FreePort(t)
	lines := append([]string{
		"process.roles=broker,controller", "node.id=1",
		fmt.Sprintf("controller.quorum.voters=1@127.0.0.1:%d", controller),
		fmt.Sprintf("listeners=PLAINTEXT://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d", b.port, controller),
		fmt.Sprintf("advertised.listeners=PLAINTEXT://127.0.0.1:%d", b.port),
		"controller.listener.names=CONTROLLER", "inter.broker.listener.name=PLAINTEXT",
		"log.dirs=" + filepath.Join(b.dir, "data"),
		"offsets.topic.replication.factor=1", "offsets.topic.num.partitions=5",
		"transaction.state.log.replication.factor=1", "transaction.state.log.min.isr=1", "transaction.state.log.num.partitions=5",
		"share.coordinator.state.topic.replication.factor=1", "share.coordinator.state.topic.min.isr=1",
		"group.initial.rebalance.delay.ms=0", "auto.create.topics.enable=false",
	}, settings...)
	if err := os.WriteFile(b.properties(), []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	format := b.java("kafka.tools.StorageTool", "format", "-t", "tensorferrytensorferry", "-c", b.properties())
	if out, err := format.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", format, err, out)
	}
	b.Restart()
	return b
}

func (b *Broker) properties() string { return filepath.Join(b.dir, "server.properties") }

func (b *Broker) java(args ...string) *exec.Cmd {
	return exec.Command("java", append([]string{"-Xmx512m", "-XX:+UseSerialGC", "-cp", b.libs}, args...)...)
}

// Addr returns the broker's address, as host:port.
func (b *Broker) Addr() string { return fmt.Sprintf("127.0.0.1:%d", b.port) }

// Kill kills the broker.
func (b *Broker) Kill() { b.process.Kill() }

// Restart starts a broker that does not run, with its former data.
func (b *Broker) Restart() {
	b.t.Helper()
	b.process = pyenv.Start(b.t, b.java("kafka.Kafka", b.properties()))
	b.process.Eventually("the broker has started", func() bool { return strings.Contains(b.process.Output(), "Kafka Server started") })
}

// Pause freezes the broker for some time. Its connections stay open.
func (b *Broker) Pause(d time.Duration) {
	b.process.Signal(syscall.SIGSTOP)
	<-time.After(d)
	b.process.Signal(syscall.SIGCONT)
}
