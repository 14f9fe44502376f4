package job

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tensorferry/tensorferry/tensor"
)

const full = `
name: digits
parallelism: 2
source:
  file: {path: [digits.jsonl, /data/more-*.jsonl], split_size: 1MiB, max_line: 64KiB}
infer:
  endpoint: unix:///run/digits.sock
  model: digits
  version: "3"
  order: keyed
  key: {field: user.id}
  capacity: 200
  max_bytes: 32MiB
  shared_memory: 128MiB
  shared_memory_min: 16KiB
  open_timeout: 5m
  reconnect: {delay: 20ms, max_delay: 1s, multiplier: 2, jitter: 0}
  timeout: 1s
  hold: 30s
  max_calls: 100
  retry: {max: 3, delay: 50ms, multiplier: 2, max_delay: 1s, jitter: 0, budget: 50}
  on_error:
    record: dead_letter
    timeout:
      fallback: {digit: -1, scores: [0.10, 1e3, '1e3', 0x10, .5, -0, 007, 1_000], note: {"b c": "7", a: yes, z: , t: true, l: [[], {}, "é<\"\n"]}}
    overload: {fallback: {digit: ~}}
    transport: fail
    permanent: drop
  barrier: drain
  drain_limit: 5s
  max_batch: 64
  max_batch_bytes: 8MiB
  window: 2
  max_message: 16MiB
  idempotent: false
  inputs: {pixels: {field: image.pixels}}
  outputs: {label: {field: digit}, "probs:0": {field: scores, nan: string}}
  tensors:
    inputs: {pixels: {type: FP32, shape: [-1, 64]}}
    outputs: {"probs:0": {type: FP64, shape: [-1, 10]}, label: {type: INT64, shape: [-1]}}
  overwrite: true
  tls: {ca: ca.pem, cert: c.pem, key: k.pem, server_name: example.org}
sink: {file: {path: out}}
dead_letter: {file: {path: failed, consumed: true}}
checkpoint: {interval: 500ms, timeout: 1m, min_pause: 100ms, tolerable_failures: 2, retain: 5, dir: out/.checkpoints}
restart: {strategy: exponential-delay, initial_delay: 2s, max_delay: 20s, multiplier: 1.5, jitter: 0, reset_after: 10m, attempts: 9}
sidecar:
  models:
    digits: {file: digits.onnx, options: {fixed_batch: 16, precise: true, mode: "a"}}
    double: mock:double?input=x:FP32[4]
  max_batch: 128
  max_batch_delay: 2ms
  queue_rows: 1000
  queue_bytes: 10MB
  queue_timeout: 5s
stop_timeout: 10s
log: {level: debug, format: json}
trace: {endpoint: "collector:4317", sample: 0.25, headers: {x-api-key: secret}, tls: {ca: t.pem}}
`

func TestEveryKey(t *testing.T) {
	got, err := Parse("j.yaml", "/jobs", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	jitter, steady := 0.0, 0.0
	want := &Spec{
		File: "j.yaml", Name: "digits", Parallelism: 2,
		Source: Source{File: &FileSource{Paths: []string{"/jobs/digits.jsonl", "/data/more-*.jsonl"}, SplitSize: 1 << 20, MaxLine: 64 << 10}},
		Infer: Infer{Endpoint: "unix:///run/digits.sock", Model: "digits", Version: "3", Order: OrderKeyed, Key: Field{"user.id"},
			Capacity: 200, MaxBytes: 32 << 20, SharedMemory: 128 << 20, Timeout: time.Second, Hold: 30 * time.Second, MaxCalls: 100,
			SharedMemoryMin: 16 << 10, OpenTimeout: 5 * time.Minute,
			Reconnect: Reconnect{Delay: 20 * time.Millisecond, MaxDelay: time.Second, Multiplier: 2, Jitter: &steady},
			Retry:     Retry{Max: 3, Delay: 50 * time.Millisecond, Multiplier: 2, MaxDelay: time.Second, Jitter: &steady, Budget: 50},
			OnError: map[string]OnError{
				"record": {Action: ActionDeadLetter},
				"timeout": {Action: ActionFallback, Fields: []FallbackField{
					{"digit", json.RawMessage(`-1`)}, {"scores", json.RawMessage(`[0.10,1e3,"1e3",16,0.5,-0,7,1000]`)},
					{"note", json.RawMessage(`{"b c":"7","a":"yes","z":null,"t":true,"l":[[],{},"é<\"\n"]}`)}}},
				"overload":  {Action: ActionFallback, Fields: []FallbackField{{"digit", json.RawMessage(`null`)}}},
				"transport": {Action: ActionFail},
				"permanent": {Action: ActionDrop},
			},
			Barrier: BarrierDrain, DrainLimit: 5 * time.Second, MaxBatch: 64, MaxBatchBytes: 8 << 20, Window: 2, MaxMessage: 16 << 20, NotIdempotent: true,
			Inputs:  map[string]Field{"pixels": {"image.pixels"}},
			Outputs: map[string]Output{"label": {Field: "digit"}, "probs:0": {"scores", NaNString}}, Overwrite: true,
			Tensors: &Tensors{
				Inputs:  []tensor.Spec{{Name: "pixels", DType: tensor.FP32, Row: tensor.Shape{-1, 64}}},
				Outputs: []tensor.Spec{{Name: "label", DType: tensor.Int64, Row: tensor.Shape{-1}}, {Name: "probs:0", DType: tensor.FP64, Row: tensor.Shape{-1, 10}}}},
			TLS: &TLS{CA: "/jobs/ca.pem", Cert: "/jobs/c.pem", Key: "/jobs/k.pem", ServerName: "example.org"}},
		Sink:       Sink{File: &FileSink{Path: "/jobs/out"}},
		DeadLetter: &DeadLetter{File: &FileSink{Path: "/jobs/failed", Consumed: true}},
		Checkpoint: Checkpoint{Interval: 500 * time.Millisecond, Timeout: time.Minute, MinPause: 100 * time.Millisecond,
			TolerableFailures: 2, Retain: 5, Dir: "/jobs/out/.checkpoints"},
		Restart: Restart{Strategy: "exponential-delay", InitialDelay: 2 * time.Second, MaxDelay: 20 * time.Second, Multiplier: 1.5,
			Jitter: &jitter, ResetAfter: 10 * time.Minute, Attempts: 9},
		Sidecar: &Sidecar{Models: map[string]Model{
			"digits": {Location: "/jobs/digits.onnx", Options: map[string]string{"fixed_batch": "16", "precise": "true", "mode": "a"}},
			"double": {Location: "mock:double?input=x:FP32[4]"}},
			MaxBatch: 128, MaxBatchDelay: 2 * time.Millisecond, QueueRows: 1000, QueueBytes: 10_000_000, QueueTimeout: 5 * time.Second},
		StopTimeout: 10 * time.Second,
		Log:         Log{Level: "debug", Format: "json"},
		Trace:       &Trace{Endpoint: "collector:4317", Sample: 0.25, Headers: map[string]string{"x-api-key": "secret"}, TLS: &TLS{CA: "/jobs/t.pem"}},
	}
	want.at = got.at
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestSmallestFile(t *testing.T) {
	got, err := Parse("j.yaml", "/jobs", []byte("name: a\nsource: {stdin: }\ninfer: {model: m, endpoint: h:1, timeout: 0, barrier: snapshot, max_bytes: 0, retry: {max: 0, budget: 0}}\nsink: {stdout: {}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := &Spec{
		File: "j.yaml", Name: "a", Parallelism: 1, StopTimeout: DefaultStopTimeout, Source: Source{Stdin: &StdinSource{}}, Sink: Sink{Stdout: true},
		Infer: Infer{Endpoint: "h:1", Model: "m", Order: OrderOrdered, MaxBytes: int64(Off), Timeout: Off, Barrier: BarrierSnapshot, Retry: Retry{Max: Off, Budget: Off}},
		at:    got.at,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// rest completes a file, so that a case shows only the keys that it tests.
const rest = "name: a\nsource: {stdin: {}}\nsink: {stdout: {}}\n"
const infer = "infer: {model: m, endpoint: 'h:1'}\n"

func TestFaults(t *testing.T) {
	cases := []struct{ name, file, want string }{
		{"unknown key, near", rest + infer + "paralelism: 2\n",
			`j.yaml:5:1: paralelism: unknown key; did you mean "parallelism"?`},
		{"unknown key, other spelling", rest + infer + "stopTimeout: 2s\n",
			`j.yaml:5:1: stopTimeout: unknown key; did you mean "stop_timeout"?`},
		{"unknown key, far", rest + "infer: {model: m, endpoint: 'h:1'}\nlog: {colour: red}\n",
			`j.yaml:5:7: log.colour: unknown key; known here: level, format`},
		{"unknown keys, all of them and in order", rest + "infer:\n  endpont: x\n  model: m\n  timout: 1s\n",
			`j.yaml:4:1: infer.endpoint: missing; want where the model server is, such as unix:///run/server.sock or host:port, unless the job has a sidecar section
j.yaml:5:3: infer.endpont: unknown key; did you mean "endpoint"?
j.yaml:7:3: infer.timout: unknown key; did you mean "timeout"?`},
		{"given twice", rest + infer + "parallelism: 1\nparallelism: 2\n",
			`j.yaml:6:1: parallelism: given twice, first on line 5`},
		{"traces without a place", rest + infer + "trace: {sample: 0.1}\n",
			`j.yaml:5:1: trace.endpoint: missing; want an OpenTelemetry collector's address for OTLP over gRPC, as host:port`},
		{"traces to a URL", rest + infer + "trace:\n  endpoint: http://collector:4317\n",
			`j.yaml:6:13: trace.endpoint: want an OpenTelemetry collector's address for OTLP over gRPC, as host:port, found "http://collector:4317"`},
		{"too large a share", rest + infer + "trace: {endpoint: 'c:4317', sample: 1.5}\n",
			`j.yaml:5:37: trace.sample: want a number from 0 to 1, found 1.5`},
		{"headers that cannot be sent", rest + infer + "trace: {endpoint: 'c:4317', headers: {X-Key: a, x-note: \"\\e\"}}\n",
			`j.yaml:5:39: trace.headers: "X-Key" is not a valid name; want a header's name, in lower case
j.yaml:5:57: trace.headers.x-note: want a header's value, of printable ASCII characters, found "\x1b"`},
		{"everything missing", "log: {}\n",
			`j.yaml:1:1: name: missing; want the job's name
j.yaml:1:1: source: missing; want file, stdin or kafka
j.yaml:1:1: infer: missing; want the model that answers
j.yaml:1:1: sink: missing; want file, stdout or kafka`},
		{"wrong types", "name: 7\nparallelism: two\nsource: here\ninfer: [a]\nsink: {file: out}\n",
			`j.yaml:1:7: name: want the job's name (in quotes, if it looks like a number or a truth value), found 7
j.yaml:2:14: parallelism: want a whole number from 1 to 1024, found "two"
j.yaml:3:9: source: want a mapping (key: value), found "here"
j.yaml:4:8: infer: want a mapping (key: value), found a list
j.yaml:5:14: sink.file: want a mapping (key: value), found "out"`},
		{"impossible values", "name: a b\nparallelism: 0\nsource: {stdin: {max_line: 0}}\nsink: {stdout: {}}\ninfer:\n  model: m\n  endpoint: h:1\n  capacity: -1\n  timeout: 5\n  hold: 0\n  order: sorted\n  max_message: 1TB\n  overwrite: maybe\n  retry: {max: 1, multiplier: .nan, delay: 1h1}\n",
			`j.yaml:1:7: name: want a name of at most 64 letters, digits, ".", "_" and "-", found "a b"
j.yaml:2:14: parallelism: want a whole number from 1 to 1024, found 0
j.yaml:3:28: source.stdin.max_line: want a number of bytes from 1 to 1GiB, such as 64MiB or 500KB, found 0
j.yaml:8:13: infer.capacity: want a whole number from 1 to 16777216, found -1
j.yaml:9:12: infer.timeout: want a duration with its unit, such as 500ms, 10s or 2m, or 0 for none, found 5
j.yaml:10:9: infer.hold: want a duration above 0 with its unit, such as 500ms, 10s or 2m, found 0
j.yaml:11:10: infer.order: want ordered, unordered or keyed, found "sorted"
j.yaml:12:16: infer.max_message: want a number of bytes from 1KiB to 2147483647, such as 64MiB or 500KB, found "1TB"
j.yaml:13:14: infer.overwrite: want true or false, found "maybe"
j.yaml:14:31: infer.retry.multiplier: want a number from 1 to 1000, found .nan
j.yaml:14:44: infer.retry.delay: want a duration above 0 with its unit, such as 500ms, 10s or 2m, found "1h1"`},
		{"both sources", "name: a\nsource:\n  stdin: {}\n  file: {path: x}\nsink: {}\n" + infer,
			`j.yaml:2:1: source: want one of file, stdin, kafka, found file and stdin
j.yaml:5:1: sink: want file, stdout or kafka`},
		{"empty paths", "name: a\nsource: {file: {path: []}}\nsink: {file: {path: ''}}\n" + infer,
			`j.yaml:2:17: source.file.path: want a file, a pattern, or a list of them, found an empty list
j.yaml:3:21: sink.file.path: want a folder for the results, found ""`},
		{"a path that is none", "name: a\nsource: {file: {path: [a, {b: c}]}}\nsink: {stdout: }\n" + infer,
			`j.yaml:2:27: source.file.path[1]: want a file, a pattern, or a list of them, found a mapping`},
		{"fields", rest + "infer:\n  model: m\n  endpoint: h:1\n  inputs: {x: y, z: {field: a..b}}\n  outputs: {p: {field: r}, q: {field: r}, '': {field: s}}\n",
			`j.yaml:7:15: infer.inputs.x: want a mapping (key: value), found "y"
j.yaml:7:29: infer.inputs.z.field: want a field of the record, such as a or a.b, found "a..b"
j.yaml:8:32: infer.outputs.q: the field "r" is taken by output "p"; want a field of its own
j.yaml:8:43: infer.outputs: "" is not a valid name; want the name of a tensor`},
		{"output in the place of an input", rest + "infer:\n  model: m\n  endpoint: h:1\n  inputs: {x: {field: a.b}}\n  outputs: {p: {field: a}, q: {field: c.d}}\n",
			`j.yaml:8:17: infer.outputs.p: the field "a" holds the input "x"; want another field, or overwrite: true
j.yaml:8:39: infer.outputs.q.field: want the name of a field of the result, without dots, found "c.d"`},
		{"what stands for no number", rest + "infer:\n  model: m\n  endpoint: h:1\n  outputs: {p: {nan: none}, q: {field: q, nan: 1}, r: {}}\n",
			`j.yaml:7:22: infer.outputs.p.nan: want null, fail or string, found "none"
j.yaml:7:48: infer.outputs.q.nan: want null, fail or string, found 1
j.yaml:7:52: infer.outputs.r.field: missing; want the name of a field of the result, without dots`},
		{"tensors", rest + "infer:\n  model: m\n  endpoint: h:1\n  tensors:\n    inputs: {x: {type: float, shape: [-1]}, y: {shape: 3}, z: {type: FP32, shape: [-2]}}\n",
			`j.yaml:7:3: infer.tensors.outputs: missing; want the model's outputs
j.yaml:8:24: infer.tensors.inputs.x.type: unknown datatype "float"; want BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64 or BYTES
j.yaml:8:45: infer.tensors.inputs.y.type: missing; want a datatype, such as FP32 or INT64
j.yaml:8:56: infer.tensors.inputs.y.shape: want a list of dimensions, each -1 (any size) or a whole number from 0 on, such as [-1, 64], found 3
j.yaml:8:84: infer.tensors.inputs.z.shape[0]: want a list of dimensions, each -1 (any size) or a whole number from 0 on, such as [-1, 64], found -2`},
		{"drain without a timeout", rest + "infer: {model: m, endpoint: 'h:1', timeout: 0s}\n",
			`j.yaml:4:36: infer.timeout: without a timeout a checkpoint might never end, because it waits for every call in progress (barrier: drain); want a timeout, a drain_limit or barrier: snapshot`},
		{"retry without a timeout", rest + "infer: {model: m, endpoint: 'h:1', order: unordered, timeout: 0, retry: {max: 1}}\n",
			`j.yaml:4:66: infer.retry: retries need a timeout to bound them; want infer.timeout above 0, or max: 0`},
		{"numbers of the operator", rest + "infer: {model: m, endpoint: 'h:1', max_bytes: 2TiB, drain_limit: 5, retry: {max: 1, jitter: 2, budget: -1}}\n",
			`j.yaml:4:47: infer.max_bytes: want a number of bytes from 0 to 1024GiB, such as 64MiB or 500KB, found "2TiB"
j.yaml:4:66: infer.drain_limit: want a duration with its unit, such as 500ms, 10s or 2m, or 0 for none, found 5
j.yaml:4:93: infer.retry.jitter: want a number from 0 to 1, found 2
j.yaml:4:104: infer.retry.budget: want a whole number from 0 to 1000000, found -1`},
		{"the client's numbers", rest + "infer: {model: m, endpoint: 'h:1', max_batch_bytes: 0, shared_memory_min: 4KiB, open_timeout: 0, reconnect: {delay: 0, multiplier: 101, jitter: 1, max: 1s}}\n",
			`j.yaml:4:53: infer.max_batch_bytes: want a number of bytes from 1 to 2147483647, such as 64MiB or 500KB, found 0
j.yaml:4:56: infer.shared_memory_min: it has no effect without shared_memory; want shared_memory too, or no shared_memory_min
j.yaml:4:95: infer.open_timeout: want a duration above 0 with its unit, such as 500ms, 10s or 2m, found 0
j.yaml:4:117: infer.reconnect.delay: want a duration above 0 with its unit, such as 500ms, 10s or 2m, found 0
j.yaml:4:132: infer.reconnect.multiplier: want a number from 1 to 100, found 101
j.yaml:4:145: infer.reconnect.jitter: want a number from 0 to less than 1, found 1
j.yaml:4:148: infer.reconnect.max: unknown key; known here: delay, max_delay, multiplier, jitter`},
		{"a longest delay below the first", rest + "infer: {model: m, endpoint: 'h:1', reconnect: {delay: 2s, max_delay: 1s}}\n",
			`j.yaml:4:59: infer.reconnect.max_delay: want at least the delay, 2s, found 1s`},
		{"a drain limit without a drain", rest + "infer: {model: m, endpoint: 'h:1', order: unordered, drain_limit: 5s}\n",
			`j.yaml:4:54: infer.drain_limit: it has no effect with barrier: snapshot, the default of order: unordered; want barrier: drain, or no drain_limit`},
		{"keyed without a key", rest + "infer: {model: m, endpoint: 'h:1', order: keyed}\n",
			`j.yaml:4:36: infer.key: missing; order: keyed wants the field that holds the key, such as {field: user.id}`},
		{"a key without keyed", rest + "infer: {model: m, endpoint: 'h:1', key: {field: a}}\n",
			`j.yaml:4:36: infer.key: the order is ordered; want order: keyed, or no key`},
		{"a key that is none", rest + "infer: {model: m, endpoint: 'h:1', order: keyed, key: {field: a.}}\n",
			`j.yaml:4:63: infer.key.field: want a field of the record, such as a or a.b, found "a."`},
		{"a key and a wrong order", rest + "infer: {model: m, endpoint: 'h:1', order: key, key: {field: a}}\n",
			`j.yaml:4:43: infer.order: want ordered, unordered or keyed, found "key"`},
		{"actions that are none", rest + "infer:\n  model: m\n  endpoint: h:1\n  on_error:\n    records: drop\n    record: skip\n    timeout: {digit: 1}\n    overload: [drop]\n    backend: {fallback: 1}\n    permanent: {fallback: }\n    transport: {fallback: {a.b: 1, ok: .inf, '': 2, c: {d: 1, d: 2}}}\ndead_letter: {}\n",
			`j.yaml:8:5: infer.on_error.records: unknown key; did you mean "record"?
j.yaml:9:13: infer.on_error.record: want fail, drop, dead_letter or {fallback: {field: value}}, found "skip"
j.yaml:10:5: infer.on_error.timeout.fallback: missing; want the fields of the result, such as {digit: -1}
j.yaml:10:15: infer.on_error.timeout.digit: unknown key; known here: fallback
j.yaml:11:15: infer.on_error.overload: want fail, drop, dead_letter or {fallback: {field: value}}, found a list
j.yaml:12:25: infer.on_error.backend.fallback: want a mapping (key: value), found 1
j.yaml:13:17: infer.on_error.permanent.fallback: want at least one field, such as digit: -1
j.yaml:14:28: infer.on_error.transport.fallback: "a.b" is not a valid name; want the name of a field of the result, without dots
j.yaml:14:40: infer.on_error.transport.fallback.ok: want a value that JSON can express, found .inf
j.yaml:14:46: infer.on_error.transport.fallback: "" is not a valid name; want the name of a field of the result, without dots
j.yaml:14:63: infer.on_error.transport.fallback.c.d: given twice, first on line 14
j.yaml:15:1: dead_letter: want file or kafka`},
		{"a fallback in the place of an input", rest + "infer:\n  model: m\n  endpoint: h:1\n  inputs: {x: {field: a.b}}\n  on_error: {record: {fallback: {a: 1}}}\n",
			`j.yaml:8:34: infer.on_error.record.fallback.a: the field "a" holds the input "x"; want another field, or overwrite: true`},
		{"dead letters without a place", rest + "infer: {model: m, endpoint: 'h:1', on_error: {record: drop, timeout: dead_letter}}\n",
			`j.yaml:4:61: infer.on_error.timeout: dead_letter needs a place for the records; want a section dead_letter: {file: {path: failed}}`},
		{"a place without dead letters", rest + "infer: {model: m, endpoint: 'h:1', on_error: {record: drop}}\ndead_letter: {file: {path: failed}}\n",
			`j.yaml:5:1: dead_letter: no failure goes there; want dead_letter for a class of infer.on_error, such as {record: dead_letter}, or no section dead_letter`},
		{"dead letters among the results", "name: a\nsource: {stdin: {}}\nsink: {file: {path: out}}\ninfer: {model: m, endpoint: 'h:1', on_error: {record: dead_letter}}\ndead_letter: {file: {path: ./x/../out/}}\n",
			`j.yaml:5:22: dead_letter.file.path: want another folder than the sink's, /jobs/out`},
		{"restart's parameters", "name: a\nsource: {file: {path: x}}\nsink: {stdout: }\n" + infer + "restart: {strategy: fixed-delay, attempts: 2, jitter: 0.5}\n",
			`j.yaml:5:47: restart.jitter: not a parameter of strategy fixed-delay, which has attempts, delay`},
		{"restart without a strategy", rest + infer + "restart: {attempts: 2}\n",
			`j.yaml:5:1: restart.strategy: missing; want none, fixed-delay, failure-rate or exponential-delay`},
		{"restart of standard input", rest + infer + "restart: {strategy: fixed-delay}\n",
			`j.yaml:5:11: restart.strategy: standard input cannot be read again after a failure; want none, or a file as the source`},
		{"bounds that contradict", "name: a\nsource: {file: {path: x}}\nsink: {stdout: }\ninfer: {model: m, endpoint: 'h:1', capacity: 5, max_calls: 6, retry: {max: 1, delay: 2s, max_delay: 1s}}\nrestart: {strategy: exponential-delay, initial_delay: 2s, max_delay: 1s}\n",
			`j.yaml:4:49: infer.max_calls: want at most the capacity, 5, found 6
j.yaml:4:90: infer.retry.max_delay: want at least the delay, 2s, found 1s
j.yaml:5:59: restart.max_delay: want at least the initial delay, 2s, found 1s`},
		{"a model that the sidecar has not", rest + "infer: {model: digit}\nsidecar: {models: {digits: d.onnx}}\n",
			`j.yaml:4:9: infer.model: want a model of the sidecar section (digits), found "digit"`},
		{"a sidecar without models", rest + "infer: {model: m}\nsidecar: {models: {}}\n",
			`j.yaml:5:11: sidecar.models: want at least one model, such as name: file.onnx`},
		{"half a certificate", rest + "infer: {model: m, endpoint: 'h:1', tls: {cert: a}}\n",
			`j.yaml:4:36: infer.tls: want cert and key together, or neither`},
		{"anchors and tags", rest + "infer: &x {model: m, endpoint: 'h:1'}\nlog: {level: !!str info}\n",
			`j.yaml:4:8: infer: want a mapping (key: value), found an anchor, alias or merge, which job files do not have
j.yaml:5:14: log.level: want debug, info, warn or error, found a tag, which job files do not have`},
		{"no YAML", "name: [a\n", `j.yaml:1:7: not valid YAML: sequence end token ']' not found`},
		{"tabs", "name: a\nsource:\n\tstdin: {}\n", `j.yaml:3:1: not valid YAML: found character '	' that cannot start any token`},
		{"two documents", rest + infer + "---\nname: b\n", `j.yaml:6:1: a second YAML document; want one job per file`},
		{"nothing", "# only a comment\n", `j.yaml:1:1: the file is empty; want name, source, infer and sink`},
		{"a key that no known one is near", rest + infer + "foo: 1\n", "j.yaml:5:1: foo: unknown key; known here: name, parallelism, source, infer, sink, dead_letter, checkpoint, restart, sidecar, stop_timeout, log, trace"},
		{"a merge at the top", rest + infer + "<<: {a: b}\n", "j.yaml:5:1: the file: want a plain key, found an anchor, alias or merge, which job files do not have"},
		{"a word for a section", "name: a\nsource: stdin\nsink: stdout\n" + infer, "j.yaml:2:9: source: want a mapping, such as {stdin: {}}\nj.yaml:3:7: sink: want a mapping, such as {stdout: {}}"},
		{"a text", "hello\n", `j.yaml:1:1: the file: want a mapping (key: value), found "hello"`},
		{"binary", "\x7fELF\x00\x00", `j.yaml:1:1: the file is not text, or nests more than 100 brackets; want a job file`},
		{"deep", strings.Repeat("[", 60_000), `j.yaml:1:1: the file is not text, or nests more than 100 brackets; want a job file`},
		{"large", strings.Repeat("# large\n", 10_000), `j.yaml:1:1: the file has more than 65536 bytes, the most that a job file may have`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("j.yaml", "/jobs", []byte(c.file))
			if err == nil {
				t.Fatalf("no fault, want\n%s", c.want)
			}
			if err.Error() != c.want {
				t.Errorf("got\n%v\nwant\n%s", err, c.want)
			}
			if _, ok := errors.AsType[Fault](err); !ok {
				t.Error("errors.As finds no Fault")
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "job.yaml")
	if _, err := Load(path); err == nil || err.Error() != "job file "+path+": no such file or directory" {
		t.Errorf("absent file: %v", err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("folder: %v", err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(pipe); err == nil || !strings.Contains(err.Error(), "is a named pipe; want a regular file") {
		t.Errorf("a pipe without a writer: %v", err)
	}
	if err := os.WriteFile(path, []byte("\xef\xbb\xbf"+full), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	s, err := Load("job.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "out"); s.Sink.File.Path != want {
		t.Errorf("sink %q, want %q: relative paths start at the job file's folder", s.Sink.File.Path, want)
	}
	// A host reports a fault at its key, or at the nearest parent that the file has.
	for path, want := range map[string]string{
		"sidecar.models.digits": "job.yaml:49:5: sidecar.models.digits: no such file",
		"infer.inputs.pixels.x": "job.yaml:36:12: infer.inputs.pixels.x: no such file",
		"nowhere":               "job.yaml:1:1: nowhere: no such file",
	} {
		if got := s.Fault(path, "no such %s", "file").Error(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// count returns how many of the values are true.
func count(all ...bool) (n int) {
	for _, holds := range all {
		if holds {
			n++
		}
	}
	return n
}

// FuzzParse: any content becomes a Spec, or faults that have places and are in their order. Nothing
// panics.
func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(rest + infer))
	f.Add([]byte(pipe))
	f.Add([]byte("a: &x [*x, !!binary z, <<: *x]\n? b\n: |\n  c\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := Parse("j.yaml", "/jobs", data)
		if (spec == nil) == (err == nil) {
			t.Fatalf("spec %v, error %v", spec, err)
		}
		if err == nil {
			if spec.Name == "" || spec.Parallelism < 1 || spec.Infer.Model == "" ||
				count(spec.Source.File != nil, spec.Source.Stdin != nil, spec.Source.Kafka != nil) != 1 ||
				count(spec.Sink.File != nil, spec.Sink.Stdout, spec.Sink.Kafka != nil) != 1 || spec.StopTimeout <= 0 ||
				spec.Infer.Order == "" || (spec.Infer.Order == OrderKeyed) != (spec.Infer.Key.Field != "") {
				t.Fatalf("an incomplete spec without a fault: %+v", spec)
			}
			letters := false
			for class, o := range spec.Infer.OnError {
				letters = letters || o.Action == ActionDeadLetter
				if o.Action == "" || (o.Action == ActionFallback) != (len(o.Fields) > 0) {
					t.Fatalf("class %s has an incomplete action without a fault: %+v", class, o)
				}
				for _, f := range o.Fields {
					if f.Name == "" || !json.Valid(f.Value) {
						t.Fatalf("class %s has field %q with the value %q", class, f.Name, f.Value)
					}
				}
			}
			if letters != (spec.DeadLetter != nil && (spec.DeadLetter.Kafka != nil || spec.DeadLetter.File != nil && spec.DeadLetter.File.Path != "")) {
				t.Fatalf("dead letters %v, their place %+v", letters, spec.DeadLetter)
			}
			return
		}
		fs, ok := errors.AsType[Faults](err)
		if !ok {
			t.Fatalf("not Faults: %T", err)
		}
		for i, x := range fs {
			if x.Line < 1 || x.Column < 1 || x.Message == "" {
				t.Fatalf("fault without a place: %+v", x)
			}
			if strings.ContainsAny(x.Message, "\n\r") {
				t.Fatalf("fault of several lines: %q", x.Message)
			}
			if i > 0 && (fs[i-1].Line > x.Line || fs[i-1].Line == x.Line && fs[i-1].Column > x.Column) {
				t.Fatalf("faults out of order:\n%v", err)
			}
		}
	})
}

// TestRenamedKeys: a key's old name still works, and causes one warning with the new name.
func TestRenamedKeys(t *testing.T) {
	const text = "name: j\nsource: {stdin: {}}\nsink: {stdout: {}}\ninfer: {model: m, inputs: {x: {field: x}}, outputs: {y: {field: y}}}\nsidecar:\n  models: {m: 'mock:double'}\n  "
	for key, warning := range map[string]string{
		"max_batch_delay": "",
		"window":          "j.yaml:7:3: sidecar.window is named sidecar.max_batch_delay now; the old name still works",
	} {
		spec, err := Parse("j.yaml", "/jobs", []byte(text+key+": 7ms\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := spec.Warnings.Error(); spec.Sidecar.MaxBatchDelay != 7*time.Millisecond || got != warning {
			t.Errorf("%s: %v, %q", key, spec.Sidecar.MaxBatchDelay, got)
		}
	}
	_, err := Parse("j.yaml", "/jobs", []byte(text+"window: 7ms\n  max_batch_delay: 8ms\n"))
	if err == nil || !strings.Contains(err.Error(), "given twice") {
		t.Errorf("both names: %v", err)
	}
}
