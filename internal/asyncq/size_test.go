package asyncq

import (
	"testing"
	"unsafe"
)

// A record's life touches its entry many times, so a third cache line would cost time.
func TestEntryFitsTwoCacheLines(t *testing.T) {
	if n := unsafe.Sizeof(entry{}); n > 128 {
		t.Errorf("an entry has %d bytes", n)
	}
}
