package main

import (
	"fmt"
	"net"
	"os"
)

// notify sends the service's state, such as READY=1 or STOPPING=1, to systemd. It does nothing
// unless systemd started the process and asked for it (Type=notify). sd_notify(3) describes the
// protocol.
func notify(state string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd of %s: %w", state, err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("notify systemd of %s: %w", state, err)
	}
	return nil
}
