// Command manifests checks Kubernetes manifests without a cluster: manifests FILE...
//
// It decodes each document strictly into Kubernetes' own types. So an unknown field, a wrong type
// or a duplicate field is an error, as in `kubectl apply --validate=strict`. Then it finds mistakes
// that a server would accept: mounts without a volume, probes of a port that does not exist, a
// selector that does not match its pods, and too little time to stop.
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
			return docs, fmt.Errorf("document %d is %s %s, a kind that this command cannot check", docs, kind.APIVersion, kind.Kind)
		}
	}
	var errs []error
	for _, p := range pods {
		errs = append(errs, checkPod(&p, configs))
	}
	return docs, errors.Join(errs...)
}

// checkPod checks the references within a pod, and its limits.
func checkPod(p *corev1.PodSpec, configs map[string]bool) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	volumes := map[string]bool{}
	for _, v := range p.Volumes {
		volumes[v.Name] = false
		if v.ConfigMap != nil && !configs[v.ConfigMap.Name] {
			bad("volume %s: the file has no ConfigMap %s", v.Name, v.ConfigMap.Name)
		}
	}
	for _, c := range slices.Concat(p.InitContainers, p.Containers) {
		for _, m := range c.VolumeMounts {
			if _, ok := volumes[m.Name]; !ok {
				bad("container %s mounts %s, which is not a volume", c.Name, m.Name)
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
				bad("container %s: a probe uses port %s, which the container does not have", c.Name, port.String())
			}
		}
		if c.SecurityContext == nil || c.SecurityContext.AllowPrivilegeEscalation == nil || *c.SecurityContext.AllowPrivilegeEscalation {
			bad("container %s may gain privileges", c.Name)
		}
		if c.Resources.Limits.Memory().IsZero() {
			bad("container %s has no memory limit", c.Name)
		}
	}
	for _, c := range p.InitContainers {
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways || c.StartupProbe == nil {
			bad("container %s is not a sidecar that the job waits for; want restartPolicy Always and a startupProbe", c.Name)
		}
	}
	for name, used := range volumes {
		if !used {
			bad("volume %s is not mounted", name)
		}
	}
	// The job has 30 s to stop, and after that its model server has 15 s.
	if g := p.TerminationGracePeriodSeconds; g == nil || *g < 45 {
		bad("terminationGracePeriodSeconds must be at least 45")
	}
	return errors.Join(errs...)
}
