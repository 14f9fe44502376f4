package restart_test

import (
	"fmt"
	"time"

	"github.com/tensorferry/tensorferry/stream/restart"
)

func Example() {
	s, err := restart.New(restart.Config{Strategy: restart.FixedDelay, Attempts: 2, Delay: 3 * time.Second}, true)
	if err != nil {
		fmt.Println(err)
		return
	}
	var st restart.State
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for range 3 {
		var d restart.Decision
		st, d = s.Next(st, at, 0.5)
		fmt.Println(d.Restart, d.Delay)
		at = at.Add(time.Minute)
	}
	// Output:
	// true 3s
	// true 3s
	// false 0s
}
