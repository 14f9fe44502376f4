package ferry

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tensorferry/tensorferry/sidecar"
	"github.com/tensorferry/tensorferry/sidecar/backend/mock"
	"github.com/tensorferry/tensorferry/sidecar/sidecartest"
	"github.com/tensorferry/tensorferry/tensor"
)

const infer = `{"model": "model", "timeout": "10s"}`

// TestRows: every call has its answer, in batches; END is answered when all has been.
func TestRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, sc := start(t, sidecartest.Script{Latency: time.Millisecond, Instances: 1}, Config{})
		c := dial(t, s)
		c.hello("rows", infer)
		w := c.want(`WELCOME version=1 rows=1000 bytes=67108864 frame=67108864 timeout=10000 hold=60000 model="model" modelversion=""`)
		if !strings.HasSuffix(w.says, "inputs=[x FP32 [1]] outputs=[y FP32 [1]]") {
			t.Error(w.says)
		}
		const n = 1000
		var all []byte
		for i := range uint64(n) {
			all = appendCall(all, i*3, "", float(float32(i)))
		}
		go c.conn.Write(append(all, appendHead(nil, 0, kindEnd, 0)...))
		seen := map[uint64]bool{}
		for range n {
			f := c.want("RESULT")
			if want := float(2 * float32(f.id/3)); string(f.body) != string(want) || seen[f.id] {
				t.Fatalf("%s, want % x", f.says, want)
			}
			seen[f.id] = true
		}
		c.want("END")
		c.gone()
		if calls := len(sc.Log()); calls > n/10 {
			t.Errorf("%d requests for %d rows", calls, n)
		}
	})
}

// TestJSON: a record is an object, and its result has the model's output.
func TestJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, sidecartest.Script{}, Config{})
		c := dial(t, s)
		c.hello("json", `{"model": "model", "inputs": {"x": {"field": "a.b"}}, "outputs": {"y": {"field": "twice"}},
			"on_error": {"record": {"fallback": {"twice": null}}, "backend": "drop"}}`)
		c.want("WELCOME")
		c.call(5, "", []byte(`{"id": "q", "a": {"b": 4}}`))
		if f := c.want("RESULT id=5"); string(f.body) != `{"id": "q", "a": {"b": 4},"twice":8}` {
			t.Error(string(f.body))
		}
		c.call(6, "", []byte(`{"a": 1}`))
		if f := c.want("RESULT id=6"); string(f.body) != `{"a": 1,"twice":null}` {
			t.Error(string(f.body))
		}
	})
}

// TestFailures: a failed record has its class, code and reason, and the action that the client
// asked for. The others go on.
func TestFailures(t *testing.T) {
	thirteen := 13.0
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, sidecartest.Script{BackendFaults: []mock.Fault{{Kind: mock.BadRow, Row: &thirteen}}}, Config{})
		c := dial(t, s)
		c.hello("rows", `{"model": "model", "max_batch": 1, "on_error": {"record": "dead_letter", "timeout": "drop"}}`)
		c.want("WELCOME")
		c.call(1, "", float(13))
		c.want(`FAILURE id=1 action=2 class=1 attempts=1 code="INVALID_ARGUMENT"`)
		c.call(1, "", float(1)) // the id is free again
		c.want("RESULT id=1")
		c.call(2, "", []byte{1, 2, 3})
		f := c.want(`FAILURE id=2 action=2 class=1`)
		if !strings.Contains(f.says, "input x: the row ends too early") {
			t.Error(f.says)
		}
		c.call(3, "", []byte{1, 2, 3, 4, 5})
		if f := c.want(`FAILURE id=3 action=2 class=1`); !strings.Contains(f.says, "1 bytes behind its last input") {
			t.Error(f.says)
		}
	})
}

// TestOpenShapes: rows with dimensions of any size and with strings, both ways.
func TestOpenShapes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, sidecartest.Script{
			Function: "echo", Inputs: []tensor.Spec{{Name: "t", DType: tensor.Bytes, Row: tensor.Shape{-1, 2}}},
		}, Config{})
		c := dial(t, s)
		c.hello("rows", infer)
		c.want("WELCOME")
		row := binary.LittleEndian.AppendUint32(nil, 2)
		for _, e := range []string{"a", "", "ccc", "dd"} {
			row, _ = tensor.AppendElement(row, e)
		}
		c.call(1, "", row)
		if f := c.want("RESULT id=1"); string(f.body) != string(row) {
			t.Errorf("% x, want % x", f.body, row)
		}
		for _, bad := range [][]byte{
			nil, row[:3], row[:4], row[:len(row)-1],
			{255, 255, 255, 255, 0, 0, 0, 0},
			{1, 0, 0, 0, 255, 255, 255, 255, 1, 2, 3},
		} {
			c.call(2, "", bad)
			c.want("FAILURE id=2 action=0 class=1")
		}
	})
}

// TestKeyed: the answers to one key come in the order of its calls, however long each takes.
func TestKeyed(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, sidecartest.Script{Jitter: 20 * time.Millisecond, Seed: seed}, Config{})
		c := dial(t, s)
		c.hello("rows", `{"model": "model", "order": "keyed", "max_batch": 3, "window": 8}`)
		c.want("WELCOME")
		random := rand.New(rand.NewPCG(seed, 1))
		var all []byte
		keys := map[uint64]string{}
		for id := range uint64(500) {
			keys[id] = fmt.Sprint("k", random.IntN(7))
			all = appendCall(all, id, keys[id], float(float32(id)))
		}
		go c.conn.Write(all)
		last := map[string]uint64{}
		for range keys {
			f := c.want("RESULT")
			if before, ok := last[keys[f.id]]; ok && before > f.id {
				t.Fatalf("%d after %d, of one key", f.id, before)
			}
			last[keys[f.id]] = f.id
		}
	})
}

// TestCancel: a cancelled call has the answer CANCELLED and no result, and its id is free then.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, sidecartest.Script{Latency: time.Second}, Config{})
		c := dial(t, s)
		c.hello("rows", infer)
		c.want("WELCOME")
		c.call(1, "", float(1))
		c.call(2, "", float(2))
		c.bare(1, kindCancel)
		c.bare(99, kindCancel) // nothing
		got := map[string]bool{}
		for range 2 {
			f, err := c.next()
			if err != nil {
				t.Fatal(err)
			}
			got[f.says] = true
		}
		if !got["CANCELLED id=1"] || !got["RESULT id=2 row=00008040"] {
			t.Error(got)
		}
	})
}

// TestHeld: while the server is away nothing times out, and the client learns why; before WELCOME
// and after it.
func TestHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, sc := start(t, sidecartest.Script{LoadTime: 20 * time.Second}, Config{})
		c := dial(t, s)
		c.hello("rows", `{"model": "model", "timeout": "2s", "hold": "1m"}`)
		c.want(`HELD why="the model server at `)
		c.bare(77, kindPing)
		c.want("PONG id=77")
		c.want("RESUMED")
		c.want("WELCOME")
		sc.Stop()
		c.want("HELD")
		c.call(1, "", float(1))
		time.Sleep(30 * time.Second) // longer than the timeout
		if err := sc.Restart(); err != nil {
			t.Fatal(err)
		}
		for {
			f, err := c.next()
			if err != nil {
				t.Fatal(err)
			}
			if f.kind == kindResult {
				break
			}
			switch f.kind {
			case kindPing:
				c.bare(f.id, kindPong)
			case kindResumed, kindHeld:
			default:
				t.Fatal(f.says)
			}
		}
	})
}

// TestDrain: the ferry says that it stops, answers what it has, and ends when the client does.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, sidecartest.Script{Latency: time.Second}, Config{})
		c, other := dial(t, s), dial(t, s)
		for _, c := range []*client{c, other} {
			c.hello("rows", infer)
			c.want("WELCOME")
			c.call(1, "", float(1))
		}
		stopped := make(chan error, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		go func() { stopped <- s.Shutdown(ctx) }()
		c.want("DRAIN")
		other.want("DRAIN")
		c.want("RESULT id=1")
		c.bare(0, kindEnd)
		c.want("END")
		c.gone()
		other.want("RESULT id=1")
		other.gone() // when the grace is over
		if err := <-stopped; err == nil {
			t.Error("want the cause of the end of the grace")
		}
		late := dial(t, s)
		late.gone()
	})
}

// TestSilence: a client from which nothing comes is asked, and one that does not answer is given
// up.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, sidecartest.Script{}, Config{})
		c := dial(t, s)
		c.hello("rows", infer)
		c.want("WELCOME")
		began := time.Now()
		c.want("PING id=0")
		c.bare(0, kindPong)
		c.want("PING id=0")
		if d := time.Since(began); d != 2*DefaultSilence {
			t.Error(d)
		}
		if f := c.want("BROKEN"); !strings.Contains(f.says, "the client is silent") {
			t.Error(f.says)
		}
		c.gone()
		quiet := dial(t, s)
		if f := quiet.want("BROKEN"); !strings.Contains(f.says, "no HELLO came in time") {
			t.Error(f.says)
		}
	})
}

// TestTargets: a client need not name what is the only one, and names what is not.
func TestTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, sc := start(t, sidecartest.Script{}, Config{})
		for _, infer := range []string{`{}`, `null`, `{"model": "model"}`} {
			c := dial(t, s)
			c.hello("rows", infer)
			c.want("WELCOME")
			c.conn.Close()
		}
		near := Target{Model: "*", Config: sidecar.Config{Endpoint: sc.Endpoint(), Dialer: sc.Dialer()}}
		far := Target{Model: "model", Config: sidecar.Config{Endpoint: "127.0.0.1:1"}}
		for _, want := range []struct {
			allow       []Target
			infer, says string
		}{
			{[]Target{near}, `{}`, "infer.model: missing"},
			{[]Target{near, far}, `{"model": "model"}`, "infer.endpoint: missing"},
			{[]Target{near, far}, `{"model": "model", "endpoint": "` + sc.Endpoint() + `"}`, "WELCOME"},
			{[]Target{near, far}, `{"model": "none", "endpoint": "127.0.0.1:1"}`, "may not reach the model"},
			{[]Target{near}, `{"model": "none"}`, "the server has no such model"},
		} {
			s, err := New(Config{Allow: want.allow})
			if err != nil {
				t.Fatal(err)
			}
			c := dial(t, s)
			c.hello("rows", want.infer)
			if f, err := c.next(); err != nil || !strings.Contains(f.says, want.says) {
				t.Errorf("%s: want %s, got %s, %v", want.infer, want.says, f.says, err)
			}
			s.Close()
		}
	})
}

// TestRules: each breach of the protocol ends the connection, with a reason, and nothing else.
func TestRules(t *testing.T) {
	calls := func(n int) (b []byte) {
		for id := range uint64(n) {
			b = appendCall(b, id, "", float(1))
		}
		return b
	}
	for name, test := range map[string]struct {
		send []byte // behind WELCOME
		says string
	}{
		"an id twice":          {append(calls(1), calls(1)...), "CALL with the id 0, which has no answer yet"},
		"beyond the credit":    {calls(11), "the credit is 10 rows"},
		"a frame too long":     {append(binary.LittleEndian.AppendUint32(nil, 1<<31), make([]byte, headSize)...), "at most"},
		"a frame too short":    {make([]byte, frameSize), "want at least 9"},
		"a frame of the ferry": {appendHead(nil, 1, kindResult, 0), "which no client sends"},
		"END with a payload":   {append(appendHead(nil, 0, kindEnd, 1), 0), "with a payload of 1 bytes"},
		"a key too long":       {append(appendHead(nil, 0, kindCall, 4), 1, 0, 0, 0), "the key is not whole"},
		"HELLO again":          {appendHead(nil, 0, kindHello, 0), "which no client sends"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := start(t, sidecartest.Script{Latency: time.Hour}, Config{MaxCalls: 10})
				c := dial(t, s)
				c.hello("rows", `{"model": "model", "hold": "2h"}`)
				c.want("WELCOME version=1 rows=10 ")
				go c.conn.Write(test.send)
				f := c.want("BROKEN action=0 class=5 attempts=0 code=\"INVALID_ARGUMENT\"")
				if !strings.Contains(f.says, test.says) {
					t.Errorf("want %q: %s", test.says, f.says)
				}
				c.gone()
			})
		})
	}
}

// TestHello: what a client must not ask for is refused, with the key at fault.
func TestHello(t *testing.T) {
	for infer, says := range map[string]string{
		`{"model": "other"}`:                                                 `may not reach a model \"other\"`,
		`{"model": "model", "endpoint": "h:1"}`:                              `may not reach the model \"model\" at h:1`,
		`{"model": "model", "capacity": 0}`:                                  "infer.capacity",
		`{"model": "model", "capcity": 1}`:                                   `did you mean \"capacity\"`,
		`{"model": "model", "order": "ordered"}`:                             "infer.order: want unordered or keyed",
		`{"model": "model", "key": {"field": "k"}}`:                          "each CALL has its key",
		`{"model": "model", "barrier": "drain"}`:                             "infer.barrier",
		`{"model": "model", "drain_limit": "1s"}`:                            "infer.drain_limit",
		`{"model": "model", "tls": {}}`:                                      "infer.tls",
		`{"model": "model", "shared_memory": 1}`:                             "infer.shared_memory",
		`{"model": "model", "overwrite": true}`:                              "infer.overwrite",
		`{"model": "model", "inputs": {"x": {"field": "x"}}}`:                "infer.inputs",
		`{"model": "model", "on_error": {"record": {"fallback": {"y": 1}}}}`: "infer.on_error.record",
		`{"model": "model", "timeout": 0, "retry": {"max": 3}}`:              "retries need a timeout",
		`[]`: "want a mapping",
	} {
		t.Run(infer, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := start(t, sidecartest.Script{}, Config{})
				c := dial(t, s)
				go c.conn.Write(helloFrame("rows", infer))
				f := c.want("BROKEN action=0 class=5")
				if !strings.Contains(f.says, says) {
					t.Errorf("want %s: %s", says, f.says)
				}
				c.gone()
			})
		})
	}
	for send, says := range map[string]string{
		"GET / HTTP/1.1\r\n\r\n":                                              "want the eight bytes",
		Magic + string(appendHead(nil, 1, kindPing, 0)):                       "want HELLO (1)",
		Magic + string(appendHead(nil, 0, kindHello, maxHello)):               "at most 65536",
		Magic + string(append(appendHead(nil, 0, kindHello, 2), "{}"...)):     "version is 0",
		Magic + string(append(appendHead(nil, 0, kindHello, 3), "{\xff}"...)): "not UTF-8",
		Magic + string(append(appendHead(nil, 0, kindHello, 5), "hello"...)):  "not the JSON object",
	} {
		t.Run(says, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := start(t, sidecartest.Script{}, Config{})
				c := dial(t, s)
				go c.conn.Write([]byte(send))
				if f := c.want("BROKEN action=0 class=5"); !strings.Contains(f.says, says) {
					t.Error(f.says)
				}
				c.gone()
			})
		})
	}
}

// TestStrangers: on an abstract socket, which has no mode, only the server's own user and root are
// served.
func TestStrangers(t *testing.T) {
	ask := peerUser
	defer func() { peerUser = ask }()
	for name, c := range map[string]struct {
		addr  string
		user  int
		known bool
		want  string
	}{
		"own":         {"@x", os.Geteuid(), true, "WELCOME"},
		"root":        {"@x", 0, true, "WELCOME"},
		"another":     {"@x", os.Geteuid() + 1, true, ""},
		"unknown":     {"@x", 0, false, ""},
		"with a mode": {"/run/x.sock", os.Geteuid() + 1, true, "WELCOME"},
	} {
		t.Run(name, func(t *testing.T) {
			peerUser = func(net.Conn) (int, bool) { return c.user, c.known }
			synctest.Test(t, func(t *testing.T) {
				s, _ := start(t, sidecartest.Script{}, Config{})
				ours, theirs := net.Pipe()
				defer ours.Close()
				s.Handle(at{theirs, &net.UnixAddr{Net: "unix", Name: c.addr}})
				client := &client{t: t, conn: ours, br: bufio.NewReader(ours)}
				if c.want == "" {
					client.gone()
					return
				}
				client.hello("rows", infer)
				client.want(c.want)
			})
		})
	}
}

// at is a connection with an address.
type at struct {
	net.Conn
	addr net.Addr
}

func (a at) LocalAddr() net.Addr { return a.addr }
