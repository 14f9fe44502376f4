// Command manifests checks Kubernetes manifests without a cluster: manifests FILE...
//
// Each document is decoded strictly into Kubernetes' own types, so an unknown field, a wrong type
// or a field that comes twice is an error, as in `kubectl apply --validate=strict`. Then it looks
// for what a server would accept and nobody wants: mounts without a volume, probes of a port that
// is not there, a selector that does not select, and too little time to stop.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: manifests FILE...")
		os.Exit(2)
	}
	failed, n := false, 0
	for _, file := range os.Args[1:] {
		text, err := os.ReadFile(file)
		if err == nil {
			var docs int
			docs, err = checkFile(text)
			n += docs
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", file, err)
			failed = true
		}
	}
	fmt.Printf("%d documents\n", n)
	if failed || n == 0 {
		os.Exit(1)
	}
}

func checkFile(text []byte) (docs int, err error) {
	configs := map[string]bool{}
	var pods []corev1.PodSpec
	for r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; docs++ {
		doc, err := r.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return docs, err
		}
		var kind struct{ APIVersion, Kind string }
		if err := yaml.Unmarshal(doc, &kind); err != nil {
			return docs, err
		}
		switch kind.APIVersion + " " + kind.Kind {
		case "v1 ConfigMap":
			var c corev1.ConfigMap
			if err := yaml.UnmarshalStrict(doc, &c); err != nil {
				return docs, err
			}
			configs[c.Name] = true
		case "apps/v1 StatefulSet":
			var s appsv1.StatefulSet
			if err := yaml.UnmarshalStrict(doc, &s); err != nil {
				return docs, err
			}
			if s.Spec.Selector == nil || len(s.Spec.Selector.MatchLabels) == 0 {
				return docs, fmt.Errorf("%s has no selector", s.Name)
			}
			for k, v := range s.Spec.Selector.MatchLabels {
				if s.Spec.Template.Labels[k] != v {
					return docs, fmt.Errorf("%s does not select its own pods: label %s", s.Name, k)
				}
			}
			pods = append(pods, s.Spec.Template.Spec)
		default:
			return docs, fmt.Errorf("document %d is %s %s, which is not checked here", docs, kind.APIVersion, kind.Kind)
		}
	}
	var errs []error
	for _, p := range pods {
		errs = append(errs, checkPod(&p, configs))
	}
	return docs, errors.Join(errs...)
}

// checkPod checks what refers to what.
func checkPod(p *corev1.PodSpec, configs map[string]bool) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	volumes := map[string]bool{}
	for _, v := range p.Volumes {
		volumes[v.Name] = false
		if v.ConfigMap != nil && !configs[v.ConfigMap.Name] {
			bad("volume %s: no ConfigMap %s in the file", v.Name, v.ConfigMap.Name)
		}
	}
	for _, c := range slices.Concat(p.InitContainers, p.Containers) {
		for _, m := range c.VolumeMounts {
			if _, ok := volumes[m.Name]; !ok {
				bad("container %s mounts %s, which is no volume", c.Name, m.Name)
			}
			volumes[m.Name] = true
		}
		for _, probe := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
			if probe == nil || probe.HTTPGet == nil {
				continue
			}
			port := probe.HTTPGet.Port
			if !slices.ContainsFunc(c.Ports, func(cp corev1.ContainerPort) bool {
				return port.Type == intstr.String && cp.Name == port.StrVal || port.Type == intstr.Int && cp.ContainerPort == port.IntVal
			}) {
				bad("container %s: a probe asks port %s, which it has not", c.Name, port.String())
			}
		}
		if c.SecurityContext == nil || c.SecurityContext.AllowPrivilegeEscalation == nil || *c.SecurityContext.AllowPrivilegeEscalation {
			bad("container %s may gain privileges", c.Name)
		}
		if c.Resources.Limits.Memory().IsZero() {
			bad("container %s has no limit of memory", c.Name)
		}
	}
	for _, c := range p.InitContainers {
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways || c.StartupProbe == nil {
			bad("container %s is no sidecar that the job waits for: want restartPolicy Always and a startupProbe", c.Name)
		}
	}
	for name, used := range volumes {
		if !used {
			bad("volume %s is mounted nowhere", name)
		}
	}
	// The job has 30 s to stop, what it calls 15 s after that.
	if g := p.TerminationGracePeriodSeconds; g == nil || *g < 45 {
		bad("terminationGracePeriodSeconds must be at least 45")
	}
	return errors.Join(errs...)
}
