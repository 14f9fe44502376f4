package endpoint

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

func hears(c *net.TCPConn, ago time.Duration) Hearing {
	raw, err := c.SyscallConn()
	if err != nil {
		return Unknown
	}
	var info *unix.TCPInfo
	if ctl := raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); ctl != nil || err != nil {
		return Unknown // the connection is closed
	}
	return judge(info, ago)
}

// delayedAck is how long a receiver may delay an acknowledgement, plus a margin.
const delayedAck = 100 * time.Millisecond

// probes is how many unanswered probes of an idle connection, or of a full receiver, mean that the
// other side is gone.
const probes = 3

// judge interprets the kernel's figures for data that was written so long ago.
func judge(info *unix.TCPInfo, ago time.Duration) Hearing {
	rtt, spread := time.Duration(info.Rtt)*time.Microsecond, time.Duration(info.Rttvar)*time.Microsecond
	switch {
	case info.Unacked == 0:
		// All data that was sent is acknowledged. Unsent data waits for room at the
		// receiver. The kernel then probes the receiver, as it probes an idle one.
		if info.Probes >= probes {
			return Unheard
		}
		return Heard
	case time.Duration(info.Last_ack_recv)*time.Millisecond < ago:
		return Heard
	case ago < rtt+4*spread+delayedAck:
		return Heard // the acknowledgement may still come
	}
	return Unheard
}
