package endpoint

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestJudge(t *testing.T) {
	const second = time.Second
	for name, c := range map[string]struct {
		info unix.TCPInfo
		ago  time.Duration
		want Hearing
	}{
		"all is acknowledged":                 {unix.TCPInfo{Last_ack_recv: 900}, second, Heard},
		"acknowledged since, and more is out": {unix.TCPInfo{Unacked: 3, Last_ack_recv: 100, Rtt: 200}, second, Heard},
		"nothing since":                       {unix.TCPInfo{Unacked: 1, Last_ack_recv: 1250, Rtt: 200, Rttvar: 100}, second, Unheard},
		"sent a moment ago":                   {unix.TCPInfo{Unacked: 1, Last_ack_recv: 1250, Rtt: 200}, 50 * time.Millisecond, Heard},
		"the way is long":                     {unix.TCPInfo{Unacked: 1, Last_ack_recv: 1250, Rtt: 600_000, Rttvar: 200_000}, second, Heard},
		"the receiver is full, and answers":   {unix.TCPInfo{Notsent_bytes: 100, Last_ack_recv: 1800, Probes: 1}, second, Heard},
		"the receiver was full, and is gone":  {unix.TCPInfo{Notsent_bytes: 100, Last_ack_recv: 9000, Probes: 3}, second, Unheard},
	} {
		if got := judge(&c.info, c.ago); got != c.want {
			t.Errorf("%s: %d; want %d", name, got, c.want)
		}
	}
}

// The other side's system acknowledges data even if the process there reads nothing.
func TestHears(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		address := "127.0.0.1:0"
		if network == "unix" {
			address = "@" + t.Name() + time.Now().Format("150405.000000000")
		}
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		began := time.Now()
		if _, err := c.Write([]byte("is anybody there?")); err != nil {
			t.Fatal(err)
		}
		if got := Hears(c, began); got != Heard {
			t.Errorf("%s: %d", network, got)
		}
		c.Close()
		if got := Hears(c, began); network == "tcp" && got != Unknown {
			t.Errorf("closed: %d", got)
		}
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if got := Hears(a, time.Now()); got != Unknown {
		t.Errorf("of another kind: %d", got)
	}
}
