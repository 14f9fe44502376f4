package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/tensorferry/tensorferry/job"
)

// The manifests' job files are valid, and name the endpoint at which the model server listens.
func TestManifests(t *testing.T) {
	files, err := filepath.Glob("../../deploy/kubernetes/*.yaml")
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var config struct {
			Data map[string]string `yaml:"data"`
		}
		first, rest, ok := strings.Cut(string(text), "\n---\n")
		if err := yaml.Unmarshal([]byte(first), &config); err != nil || !ok {
			t.Fatal(file, err)
		}
		dir := t.TempDir()
		data := config.Data["job.yaml"]
		if err := os.WriteFile(filepath.Join(dir, "in.jsonl"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		// The input is not here.
		data = strings.Replace(data, "/data/in/*.jsonl", filepath.Join(dir, "*.jsonl"), 1)
		spec, err := job.Parse("job.yaml", dir, []byte(data))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		listens := "--listen=" + spec.Infer.Endpoint
		if host, port, ok := strings.Cut(spec.Infer.Endpoint, ":"); ok && host != "unix" {
			listens = "--grpc-port=" + port
			if !strings.Contains(rest, "--grpc-address="+host) {
				t.Errorf("%s: no server listens on %s", file, host)
			}
		}
		if !strings.Contains(rest, listens) {
			t.Errorf("%s: the job's endpoint is %s; no container has %s", file, spec.Infer.Endpoint, listens)
		}
		if spec.StopTimeout != job.DefaultStopTimeout {
			t.Errorf("%s: stop_timeout %v; terminationGracePeriodSeconds was made for %v", file, spec.StopTimeout, job.DefaultStopTimeout)
		}
	}
}

// Every flag that a unit or a manifest gives to the command exists.
func TestDeployedFlags(t *testing.T) {
	files, _ := filepath.Glob("../../deploy/*/*")
	flag := regexp.MustCompile(`--[a-z-]+`)
	help := try("help", "sidecar").out + try("help", "run").out + try("help", "ferry").out
	seen := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(file, "triton") {
			continue // mostly flags of another program
		}
		for _, line := range strings.Split(string(text), "\n") {
			if strings.HasPrefix(strings.TrimSpace(line), "#") {
				continue
			}
			for _, name := range flag.FindAllString(line, -1) {
				if name == "---" {
					continue
				}
				seen++
				if !strings.Contains(help, name+" ") {
					t.Errorf("%s: the command has no flag %s", file, name)
				}
			}
		}
	}
	if seen < 8 {
		t.Errorf("%d flags were looked at", seen)
	}
}
