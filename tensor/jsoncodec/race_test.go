//go:build race

package jsoncodec

// Under the race detector sync.Pool drops what it is given now and then.
const raceEnabled = true
