//go:build integration

package flinkjava

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tensorferry/tensorferry/internal/pyenv"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
)

func TestMain(m *testing.M) { pyenv.Main(m) }

// maven runs Maven in the folder of the client.
func maven(t *testing.T, args ...string) {
	t.Helper()
	root, err := pyenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("mvn", append([]string{"-q", "-B", "-ntp"}, args...)...)
	cmd.Dir = filepath.Join(root, "java", "tensorferry-flink")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
}

// TestClient runs the client's own tests with Flink 1.20, and the same classes on Flink 2.
func TestClient(t *testing.T) {
	t.Run("flink 1", func(t *testing.T) { maven(t, "verify") })
	t.Run("flink 2", func(t *testing.T) { maven(t, "verify", "-Pflink2") })
}

// server starts one of the program's servers, and returns its endpoint and the address of its
// health.
func server(t *testing.T, args ...string) (endpoint, health string) {
	t.Helper()
	program, err := pyenv.Program()
	if err != nil {
		t.Fatal(err)
	}
	p := pyenv.Start(t, exec.Command(program, args...))
	p.Eventually("it is ready", func() bool {
		for line := range strings.Lines(p.Output()) {
			what, at, _ := strings.Cut(strings.TrimSpace(line), " on ")
			switch what {
			case "ready: gRPC", "ready: ferry":
				endpoint = at
			case "ready: health":
				health = at
			}
		}
		return endpoint != "" && health != ""
	})
	return endpoint, health
}

// TestAcceptance: the criteria of FLINK-39629. The mock sidecar, the ferry and the job are
// processes of their own.
func TestAcceptance(t *testing.T) {
	dir, err := os.MkdirTemp("", "tf") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	log := filepath.Join(dir, "counted.jsonl")
	fast, health := server(t, "mock-sidecar", "--listen", "unix://"+dir+"/fast.sock", "--health", "127.0.0.1:0", "--jitter", "3ms")
	slow, _ := server(t, "mock-sidecar", "--listen", "unix://"+dir+"/slow.sock", "--health", "127.0.0.1:0",
		"--model", "slow", "--latency", "300ms")
	counted, _ := server(t, "mock-sidecar", "--listen", "unix://"+dir+"/counted.sock", "--health", "127.0.0.1:0",
		"--model", "counted", "--latency", "50ms", "--log", log)
	ferry, ferryHealth := server(t, "ferry", "--listen", "unix://"+dir+"/ferry.sock", "--health", "127.0.0.1:0",
		"--allow", fast+"/model", "--allow", slow+"/slow", "--allow", counted+"/counted")
	for _, flink := range []string{"ferry", "ferry,flink2"} {
		maven(t, "test", "-P"+flink, "-Dferry="+ferry, "-Dferry.health="+ferryHealth, "-Dmock.health="+health)
	}
	if most := mostRows(t, log); most < 1 || most > 7 {
		t.Errorf("a job with a capacity of 7 had %d rows at the mock sidecar at once", most)
	}
}

// mostRows returns the largest number of rows without an answer at once, in the log of a mock
// sidecar that has a line for each call's beginning and one for its end.
func mostRows(t *testing.T, log string) (most int) {
	t.Helper()
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	rows, now := map[int64]int{}, 0
	for line := range strings.Lines(string(text)) {
		var c sidecartest.Call
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatal(err)
		}
		if c.End == 0 {
			rows[c.Number] = c.Rows
			now += c.Rows
		} else {
			now -= rows[c.Number]
		}
		most = max(most, now)
	}
	return most
}
