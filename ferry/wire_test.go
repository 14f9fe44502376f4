package ferry

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/vectors.txt anew")

// TestVectors: the file of test vectors holds the frames that this package writes, with what it
// reads from them. The Java client reads the same file.
func TestVectors(t *testing.T) {
	const path = "testdata/vectors.txt"
	var b strings.Builder
	b.WriteString("# Frames of the ferry's protocol (docs/ferry.md): bytes in hexadecimal, and what they mean.\n")
	b.WriteString("# \"!\" stands for what no side may send. Written by: go test ./ferry -run TestVectors -update\n")
	for _, f := range vectors() {
		fmt.Fprintf(&b, "%s %s\n", hex.EncodeToString(f), describe(f))
	}
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(file) != b.String() {
		t.Errorf("%s is not what the package writes and reads:\n%s", path, b.String())
	}
	refused := 0
	for line := range strings.Lines(string(file)) {
		if strings.HasSuffix(line, " !\n") {
			refused++
		}
	}
	if refused < 10 {
		t.Errorf("%d frames are refused", refused)
	}
}

// TestDocumented: docs/ferry.md lists every kind and every class with the number that is used.
func TestDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/ferry.md")
	if err != nil {
		t.Fatal(err)
	}
	for k, name := range map[kind]string{
		kindHello: "HELLO", kindCall: "CALL", kindCancel: "CANCEL", kindEnd: "END", kindPing: "PING", kindPong: "PONG",
		kindWelcome: "WELCOME", kindResult: "RESULT", kindFailure: "FAILURE", kindBroken: "BROKEN", kindHeld: "HELD",
		kindResumed: "RESUMED", kindCredit: "CREDIT", kindDrain: "DRAIN", kindStats: "STATS", kindCancelled: "CANCELLED",
	} {
		if row := fmt.Sprintf("\n| %d | %s | ", k, name); !strings.Contains(string(doc), row) {
			t.Errorf("no row %q", row)
		}
	}
	if magic := fmt.Sprintf("`% x`", Magic); !strings.Contains(string(doc), magic) {
		t.Errorf("the eight bytes are %s", magic)
	}
}
