package async

import "reflect"

// sizeOf returns what counts the bytes of a record for Config.MaxBytes: the
// function's own Sizer, else the length of a string or of a slice of plain
// elements, else the size of the type. It is decided once, so that counting costs little.
func sizeOf[IN any](fn any) func(*IN) int64 {
	if s, ok := fn.(Sizer[IN]); ok {
		return func(v *IN) int64 { return int64(max(s.RecordBytes(*v), 0)) }
	}
	switch any((*IN)(nil)).(type) {
	case *[]byte:
		return func(v *IN) int64 { return int64(len(*any(v).(*[]byte))) }
	case *string:
		return func(v *IN) int64 { return int64(len(*any(v).(*string))) }
	}
	t := reflect.TypeFor[IN]()
	switch t.Kind() {
	case reflect.String:
		return func(v *IN) int64 { return int64(reflect.ValueOf(v).Elem().Len()) }
	case reflect.Slice:
		element := int64(t.Elem().Size())
		return func(v *IN) int64 { return int64(reflect.ValueOf(v).Elem().Len()) * element }
	}
	size := int64(t.Size())
	return func(*IN) int64 { return size }
}

// hashKey is FNV-1a with 64 bits.
func hashKey(key string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	return h
}
