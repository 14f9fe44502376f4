package job

import (
	"strings"
)

// together reports keys that are valid alone but not together. A key with a fault of its own is
// zero by now, so it causes no second fault.
func (d *decoder) together(s *Spec) {
	at := func(path string) Position { return place(d.at, path) }
	given := func(path string) bool { _, ok := d.at[path]; return ok }
	i := &s.Infer
	drains := i.Barrier == BarrierDrain || i.Barrier == BarrierDefault && i.Order != OrderUnordered && !given("infer.barrier")
	if i.DrainLimit > 0 && !drains && (i.Barrier != BarrierDefault || !given("infer.barrier")) {
		d.fault(at("infer.drain_limit"), "infer.drain_limit: it has no effect with barrier: snapshot, the default of order: unordered; want barrier: drain, or no drain_limit")
	}
	if i.Timeout == Off && drains && i.DrainLimit == 0 && !given("infer.drain_limit") {
		d.fault(at("infer.timeout"), "infer.timeout: without a timeout a checkpoint might never end, because it waits for every call in progress (barrier: drain); want a timeout, a drain_limit or barrier: snapshot")
	}
	d.operator(i)
	switch {
	case i.Order == OrderKeyed && !given("infer.key"):
		d.fault(at("infer.order"), "infer.key: missing; order: keyed wants the field that holds the key, such as {field: user.id}")
	case i.Order != OrderKeyed && i.Order != "" && given("infer.key"):
		d.fault(at("infer.key"), "infer.key: the order is %s; want order: keyed, or no key", i.Order)
	}
	d.failures(s)
	d.streams(s)
	if s.Restart.MaxDelay > 0 && s.Restart.MaxDelay < s.Restart.InitialDelay {
		d.fault(at("restart.max_delay"), "restart.max_delay: want at least the initial delay, %v, found %v", s.Restart.InitialDelay, s.Restart.MaxDelay)
	}
	if s.Source.Stdin != nil && s.Restart.Strategy != "" && s.Restart.Strategy != "none" {
		d.fault(at("restart.strategy"), "restart.strategy: standard input cannot be read again after a failure; want none, or a file as the source")
	}
	if s.Sidecar != nil && i.Model != "" && len(s.Sidecar.Models) > 0 {
		if _, ok := s.Sidecar.Models[i.Model]; !ok {
			d.fault(at("infer.model"), "infer.model: want a model of the sidecar section (%s), found %q",
				strings.Join(sortedKeys(s.Sidecar.Models), ", "), i.Model)
		}
	}
}

// operator reports keys of the infer section that contradict each other in any host.
func (d *decoder) operator(i *Infer) {
	at := func(path string) Position { return place(d.at, path) }
	if i.Timeout == Off && i.Retry.Max > 0 {
		d.fault(at("infer.retry"), "infer.retry: retries need a timeout to bound them; want infer.timeout above 0, or max: 0")
	}
	if i.MaxCalls > i.Capacity && i.Capacity > 0 {
		d.fault(at("infer.max_calls"), "infer.max_calls: want at most the capacity, %d, found %d", i.Capacity, i.MaxCalls)
	}
	if i.Retry.MaxDelay > 0 && i.Retry.MaxDelay < i.Retry.Delay {
		d.fault(at("infer.retry.max_delay"), "infer.retry.max_delay: want at least the delay, %v, found %v", i.Retry.Delay, i.Retry.MaxDelay)
	}
	if r := &i.Reconnect; r.MaxDelay > 0 && r.MaxDelay < r.Delay {
		d.fault(at("infer.reconnect.max_delay"), "infer.reconnect.max_delay: want at least the delay, %v, found %v", r.Delay, r.MaxDelay)
	}
	if _, given := d.at["infer.shared_memory"]; i.SharedMemoryMin > 0 && !given {
		d.fault(at("infer.shared_memory_min"), "infer.shared_memory_min: it has no effect without shared_memory; want shared_memory too, or no shared_memory_min")
	}
	if i.Overwrite {
		return
	}
	for _, in := range sortedKeys(i.Inputs) {
		root, _, _ := strings.Cut(i.Inputs[in].Field, ".")
		for _, out := range sortedKeys(i.Outputs) {
			if i.Outputs[out].Field == root {
				d.fault(at("infer.outputs."+out+".field"), "infer.outputs.%s: the field %q holds the input %q; want another field, or overwrite: true", out, root, in)
			}
		}
		for _, class := range classes {
			for _, f := range i.OnError[class].Fields {
				if f.Name == root {
					field := join("infer.on_error."+class+".fallback", f.Name)
					d.fault(at(field), "%s: the field %q holds the input %q; want another field, or overwrite: true", field, f.Name, in)
				}
			}
		}
	}
}
