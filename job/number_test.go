package job

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// A number in a job file means what a person reads in it, at every key, or is refused with its key.
func TestNumbersAreDecimal(t *testing.T) {
	for _, c := range []struct {
		text string
		want int64 // -1: refused
	}{
		{"10", 10}, {"010", 10}, {"0010", 10}, {"0_10", 10}, {"+010", 10}, {"08", 8}, {"019", 19}, {"1_000", 1000},
		{"0x10", 16}, {"0b11", 3},
		{"0o10", -1}, {"0_o10", -1}, {"1e3", -1}, {"1.0", -1}, {".inf", -1}, {".nan", -1}, {"'10'", -1}, {"ten", -1}, {"~", -1}, {"_1", -1}, {"true", -1},
	} {
		file := fmt.Sprintf("name: a\nsource: {stdin: {}}\nsink: {stdout: {}}\nparallelism: %[1]s\ninfer: {model: m, endpoint: 'h:1', "+
			"window: %[1]s, retry: {max: %[1]s, multiplier: %[1]s, budget: %[1]s}, on_error: {record: {fallback: {n: [%[1]s]}}}}\n", c.text)
		got, err := Parse("j.yaml", "/jobs", []byte(file))
		if c.want < 0 {
			named := strings.Trim(c.text, "'")
			if c.text == "~" {
				named = "nothing"
			}
			if err == nil || !strings.Contains(err.Error(), "parallelism: want a whole number from 1 to 1024, found") || !strings.Contains(err.Error(), named) {
				t.Errorf("%s: %v, %v", c.text, got, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		i := &got.Infer
		var list []json.Number
		if err := json.Unmarshal(i.OnError["record"].Fields[0].Value, &list); err != nil || len(list) != 1 || list[0].String() != fmt.Sprint(c.want) {
			t.Errorf("%s as a value of JSON: %s", c.text, i.OnError["record"].Fields[0].Value)
		}
		for where, n := range map[string]int64{
			"parallelism": int64(got.Parallelism), "window": int64(i.Window), "max": int64(i.Retry.Max), "multiplier": int64(i.Retry.Multiplier), "budget": int64(i.Retry.Budget),
		} {
			if n != c.want {
				t.Errorf("%s: %s is %d, want %d", c.text, where, n, c.want)
			}
		}
	}
}

// A number with a unit and a negative number are decimal too. A text keeps its spelling.
func TestNumbersInTexts(t *testing.T) {
	got, err := Parse("j.yaml", "/jobs", []byte("name: a\nsource: {stdin: {max_line: 010}}\nsink: {stdout: {}}\nstop_timeout: 010s\n"+
		"infer: {model: m, version: '010', max_bytes: 016MiB, shared_memory: 0512, max_message: 0x1000, timeout: 00, barrier: snapshot, "+
		"on_error: {record: {fallback: {a: -010, b: '010', c: 1.50, d: 0010.5}}}}\n"+
		"sidecar: {models: {m: {file: m.onnx, options: {fixed_batch: 010}}}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	i := &got.Infer
	if got.Source.Stdin.MaxLine != 10 || got.StopTimeout != 10e9 || i.Version != "010" || i.MaxBytes != 16<<20 || i.SharedMemory != 512 || i.MaxMessage != 4096 || i.Timeout != Off {
		t.Errorf("%+v", got)
	}
	if o := got.Sidecar.Models["m"].Options["fixed_batch"]; o != "010" {
		t.Errorf("an option is %q", o)
	}
	for k, want := range []string{"-10", `"010"`, "1.50", "10.5"} {
		if f := i.OnError["record"].Fields[k]; string(f.Value) != want {
			t.Errorf("%s is %s, want %s", f.Name, f.Value, want)
		}
	}
	_, err = Parse("j.yaml", "/jobs", []byte(rest+"infer: {model: m, endpoint: 'h:1', on_error: {record: {fallback: {a: 0o10}}}}\n"))
	if err == nil || !strings.Contains(err.Error(), "infer.on_error.record.fallback.a: want a number in decimal, found 0o10") {
		t.Errorf("%v", err)
	}
}
