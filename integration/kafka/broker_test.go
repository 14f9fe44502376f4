//go:build integration

package kafka

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tensorferry/tensorferry/internal/kafkaenv"
	"github.com/tensorferry/tensorferry/internal/pyenv"
)

// settle checks that there are n records, and that no further one comes.
func (r *reader) settle(n int) {
	r.Helper()
	<-time.After(2 * time.Second)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count != n || r.wrong != "" {
		r.Errorf("%d records of %d; %s", r.count, n, r.wrong)
	}
}

// What the brokers will never allow ends a job before it has read anything, and says what to do.
func TestRefusedAtStart(t *testing.T) {
	p := newPipeline(t, kafkaenv.Start(t, "transaction.max.timeout.ms=10000"))
	for source, says := range map[string]string{
		"topic: in": "transaction.max.timeout.ms",
		"topic: in, transaction_timeout: 8s, session_timeout: 1s": "group.min.session.timeout.ms",
		"topic: nosuch, transaction_timeout: 8s":                  `there is no topic "nosuch"; create it`,
	} {
		p.write(source)
		job := p.run()
		began := time.Now()
		if code := job.Wait(); code != 1 || !strings.Contains(job.Output(), says) {
			t.Errorf("%s: exit code %d; want 1 and %q:\n%s", source, code, says, job.Output())
		}
		if d := time.Since(began); d > 15*time.Second {
			t.Errorf("%s: it took %v", source, d)
		}
	}
}

// Somebody else takes the transactional id while the job runs: its transaction is refused, and the
// job goes back. A second process of the same instance takes its place: the first ends, and says
// why. A read_committed consumer sees every record once.
func TestRefusedTransactions(t *testing.T) {
	const n = 400_000
	p := newPipeline(t, kafkaenv.Start(t))
	p.write("topic: in, session_timeout: 6s, transaction_timeout: 15s, instance: one")
	p.fill(n)
	out := p.read()
	first := p.run()
	for i := range 3 {
		out.until(n*(i+1)/10, first)
		intruder := p.client(kgo.TransactionalID("tensorferry-g-one"))
		if _, _, err := intruder.ProducerID(context.Background()); err != nil {
			t.Fatal(err)
		}
		intruder.Close()
	}
	out.until(n*4/10, first)
	first.Eventually("a transaction was refused", func() bool {
		return strings.Contains(first.Output(), "another process has taken its id, tensorferry-g-one")
	})
	out.until(n*5/10, first)
	second := p.run()
	if code := first.Wait(); code != 1 || !strings.Contains(first.Output(), "another process has joined the group as the same instance") {
		t.Errorf("the first ended with %d", code)
	}
	out.until(n, second)
	second.Signal(syscall.SIGTERM)
	if code := second.Wait(); code != 143 {
		t.Errorf("the second ended with %d", code)
	}
	out.settle(n)
}

// A broker behind a line that is slow, breaks, and gives nothing for some time.
func TestSlowBroker(t *testing.T) {
	const n = 40_000
	line := newLine(t)
	broker := kafkaenv.Start(t, "advertised.listeners=PLAINTEXT://"+line.listener.Addr().String())
	line.to.Store(broker.Addr())
	p := newPipeline(t, broker)
	p.fill(n)
	out := p.read()
	line.delay.Store(int64(20 * time.Millisecond))
	jobs := []*pyenv.Process{p.run(), p.run()}
	out.until(n/4, jobs...)
	line.delay.Store(int64(150 * time.Millisecond))
	out.until(n/3, jobs...)
	line.delay.Store(0)
	line.cut()
	out.until(n/2, jobs...)
	line.delay.Store(int64(8 * time.Second)) // longer than the session
	<-time.After(9 * time.Second)
	line.delay.Store(int64(time.Millisecond))
	out.until(n, jobs...)
	for i, job := range jobs {
		job.Signal(syscall.SIGTERM)
		if code := job.Wait(); code != 143 {
			t.Errorf("process %d ended with %d", i, code)
		}
	}
	out.settle(n)
}

// line is a proxy on loopback that takes its time.
type line struct {
	t        *testing.T
	listener net.Listener
	to       atomic.Value // string
	delay    atomic.Int64 // of whatever comes through, in nanoseconds

	mu    sync.Mutex
	conns []net.Conn
	over  chan struct{}
	work  sync.WaitGroup
}

func newLine(t *testing.T) *line {
	l := &line{t: t, over: make(chan struct{})}
	var err error
	if l.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	l.work.Go(l.accept)
	t.Cleanup(func() {
		close(l.over)
		l.listener.Close()
		l.cut()
		l.work.Wait()
	})
	return l
}

func (l *line) accept() {
	for {
		a, err := l.listener.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("tcp", fmt.Sprint(l.to.Load()))
		if err != nil {
			a.Close()
			continue
		}
		l.mu.Lock()
		l.conns = append(l.conns, a, b)
		l.mu.Unlock()
		l.work.Go(func() { l.pass(a, b) })
		l.work.Go(func() { l.pass(b, a) })
	}
}

func (l *line) pass(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			select {
			case <-time.After(time.Duration(l.delay.Load())):
			case <-l.over:
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// cut breaks all connections.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		c.Close()
	}
	l.conns = nil
}
