package async

import (
	"log/slog"
	"reflect"

	"github.com/tensorferry/tensorferry/internal/size"
)

// sizeOf returns the function that counts the bytes of a record for Config.MaxBytes: the function's
// own Sizer or, without one, a count by the record's type. It logs a warning if that may miss
// bytes.
func sizeOf[IN, OUT any](fn Function[IN, OUT], log *slog.Logger) func(*IN) int64 {
	if s, ok := As[Sizer[IN]](fn); ok {
		return func(v *IN) int64 { return int64(max(s.RecordBytes(*v), 0)) }
	}
	count, complete := size.Of[IN]()
	if !complete {
		log.Warn("the type of the records contains itself, so a record may count less than its bytes"+
			" for the bound max_bytes; implement async.Sizer", "type", reflect.TypeFor[IN]().String())
	}
	return count
}

// hashKey is FNV-1a with 64 bits.
func hashKey(key string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	return h
}
