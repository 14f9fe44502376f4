package endpoint

import (
	"net"
	"syscall"
)

// overflowUser is the number that the system reports for every user of another user namespace
// without a number in this one. So it does not identify a user.
const overflowUser = 65534

func peerUser(c *net.UnixConn) (uid int, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	var who *syscall.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		who, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err != nil || failed != nil || who.Uid == overflowUser {
		return 0, false
	}
	return int(who.Uid), true
}
