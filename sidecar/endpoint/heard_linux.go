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
		return Unknown // it is closed
	}
	return judge(info, ago)
}

// delayedAck is how long a receiver may keep an acknowledgement back, and some more.
const delayedAck = 100 * time.Millisecond

// probes is how many probes of an idle connection, or of a full receiver, may be unanswered.
const probes = 3

// judge says what the kernel's figures mean for what was written so long ago.
func judge(info *unix.TCPInfo, ago time.Duration) Hearing {
	rtt, spread := time.Duration(info.Rtt)*time.Microsecond, time.Duration(info.Rttvar)*time.Microsecond
	switch {
	case info.Unacked == 0:
		// All that was sent is acknowledged. What is not sent waits for room at the receiver, which
		// is asked for it by probes; so is an idle one whether it is there.
		if info.Probes >= probes {
			return Unheard
		}
		return Heard
	case time.Duration(info.Last_ack_recv)*time.Millisecond < ago:
		return Heard
	case ago < rtt+4*spread+delayedAck:
		return Heard // it may still come
	}
	return Unheard
}
