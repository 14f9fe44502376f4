// Package size counts the bytes that a value of a Go type takes, with what it refers to, for bounds
// on memory. A type is walked once; a value then costs a few loads. It must not change a value, and
// it allocates nothing, maps and interfaces aside.
//
// Counted are: the type itself, strings, slices up to their length, and what pointers, maps and
// interfaces refer to. Memory that several values share counts for each. Functions, channels and
// what lies behind unsafe pointers do not count, nor does what fields that are not exported refer
// to, strings and slices of plain elements aside: it is a type's own business, often shared by all
// its values, and may change at any time.
//
// A type that contains itself has values of any depth, and perhaps cycles. Where a walk meets a
// type a second time it stops; Of says so.
package size

import (
	"reflect"
	"unsafe"
)

// program counts what a value refers to, beside its own bytes.
type program struct {
	strings []uintptr // offsets
	slices  []part    // of elements, each of them counted
	arrays  []part
	points  []part
	dynamic []part // maps and interfaces
}

type part struct {
	at   uintptr
	size uintptr // of an element, or of what is pointed to
	n    int     // elements of an array
	typ  reflect.Type
	of   *program // of an element; nil: it refers to nothing
}

// Of returns what counts the bytes of a T. complete is false if T contains itself, so that a part
// of a value may not be counted.
func Of[T any]() (count func(*T) int64, complete bool) {
	t := reflect.TypeFor[T]()
	w := &walk{open: map[reflect.Type]bool{}, done: map[reflect.Type]*program{}}
	p := w.compile(t)
	own := int64(t.Size())
	switch {
	case p == nil:
		return func(*T) int64 { return own }, !w.recursive
	case len(p.strings) == 1 && t.Kind() == reflect.String:
		return func(v *T) int64 { return int64(len(*(*string)(unsafe.Pointer(v)))) }, true
	case len(p.slices) == 1 && t.Kind() == reflect.Slice && p.slices[0].of == nil:
		each := int64(p.slices[0].size)
		return func(v *T) int64 { return each * int64(len(*(*[]byte)(unsafe.Pointer(v)))) }, true
	}
	return func(v *T) int64 { return own + p.count(unsafe.Pointer(v)) }, !w.recursive
}

// walk compiles a type.
type walk struct {
	open      map[reflect.Type]bool // those around the present one
	done      map[reflect.Type]*program
	recursive bool
}

// compile returns the program of a type, nil if its values refer to nothing.
func (w *walk) compile(t reflect.Type) *program {
	if p, ok := w.done[t]; ok {
		return p
	}
	p := &program{}
	w.add(p, t, 0, false)
	if p.strings == nil && p.slices == nil && p.arrays == nil && p.points == nil && p.dynamic == nil {
		p = nil
	}
	w.done[t] = p
	return p
}

// add puts a value of type t at an offset into p. closed is one in a field that is not exported.
func (w *walk) add(p *program, t reflect.Type, at uintptr, closed bool) {
	switch k := t.Kind(); {
	case k == reflect.String:
		p.strings = append(p.strings, at)
	case closed && k == reflect.Slice && plain(t.Elem()):
		p.slices = append(p.slices, part{at: at, size: t.Elem().Size()})
	case k == reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			w.add(p, f.Type, at+f.Offset, closed || hidden(f))
		}
	case closed:
	case k == reflect.Slice, k == reflect.Pointer, k == reflect.Array:
		e := t.Elem()
		x := part{at: at, size: e.Size(), typ: t}
		if w.open[e] {
			w.recursive = true
		} else {
			w.open[e] = true
			x.of = w.compile(e)
			delete(w.open, e)
		}
		switch {
		case t.Kind() == reflect.Slice:
			p.slices = append(p.slices, x)
		case t.Kind() == reflect.Pointer:
			p.points = append(p.points, x)
		case x.of != nil:
			x.n = t.Len()
			p.arrays = append(p.arrays, x)
		}
	case k == reflect.Map, k == reflect.Interface:
		p.dynamic = append(p.dynamic, part{at: at, typ: t})
	}
}

func (p *program) count(base unsafe.Pointer) (n int64) {
	for _, at := range p.strings {
		n += int64(len(*(*string)(unsafe.Add(base, at))))
	}
	for i := range p.slices {
		x := &p.slices[i]
		// The header of any slice; elements are counted one by one only if they refer to something.
		s := *(*[]byte)(unsafe.Add(base, x.at))
		n += int64(len(s)) * int64(x.size)
		if x.of != nil {
			n += x.all(unsafe.Pointer(unsafe.SliceData(s)), len(s))
		}
	}
	for i := range p.arrays {
		x := &p.arrays[i]
		n += x.all(unsafe.Add(base, x.at), x.n)
	}
	for i := range p.points {
		x := &p.points[i]
		if to := *(*unsafe.Pointer)(unsafe.Add(base, x.at)); to != nil {
			n += int64(x.size)
			if x.of != nil {
				n += x.of.count(to)
			}
		}
	}
	for i := range p.dynamic {
		x := &p.dynamic[i]
		b := budget{depth: maxDepth, values: maxValues}
		n += b.refers(reflect.NewAt(x.typ, unsafe.Add(base, x.at)).Elem())
	}
	return n
}

// all counts what n elements refer to.
func (x *part) all(first unsafe.Pointer, n int) (sum int64) {
	for i := range n {
		sum += x.of.count(unsafe.Add(first, uintptr(i)*x.size))
	}
	return sum
}

// Bounds of a walk through maps and interfaces, which may hold anything, themselves included. Of
// more values the rest is taken to be like those that were counted.
const (
	maxDepth  = 64
	maxValues = 1 << 16
)

type budget struct{ depth, values int }

// refers counts what a value refers to whose type is known only now.
func (b *budget) refers(v reflect.Value) (n int64) {
	if b.values--; b.values < 0 || b.depth == 0 {
		return 0
	}
	b.depth--
	defer func() { b.depth++ }()
	switch v.Kind() {
	case reflect.String:
		return int64(v.Len())
	case reflect.Interface, reflect.Pointer:
		if v.IsNil() {
			return 0
		}
		return int64(v.Elem().Type().Size()) + b.refers(v.Elem())
	case reflect.Slice:
		n = int64(v.Len()) * int64(v.Type().Elem().Size())
		return n + b.elements(v)
	case reflect.Array:
		return b.elements(v)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); !hidden(v.Type().Field(i)) {
				n += b.refers(f)
			} else if f.Kind() == reflect.String || f.Kind() == reflect.Slice && plain(f.Type().Elem()) {
				n += b.refers(f)
			}
		}
	case reflect.Map:
		each := int64(v.Type().Key().Size() + v.Type().Elem().Size())
		n = int64(v.Len()) * each
		if plain(v.Type().Key()) && plain(v.Type().Elem()) {
			return n
		}
		var referred int64
		seen := 0
		for it := v.MapRange(); b.values > 0 && it.Next(); seen++ {
			referred += b.refers(it.Key()) + b.refers(it.Value())
		}
		n += ofAll(referred, seen, v.Len())
	}
	return n
}

func (b *budget) elements(v reflect.Value) (n int64) {
	if plain(v.Type().Elem()) {
		return 0
	}
	i := 0
	for ; i < v.Len() && b.values > 0; i++ {
		n += b.refers(v.Index(i))
	}
	return ofAll(n, i, v.Len())
}

// ofAll is what all elements refer to, if those that were not seen are like those that were.
func ofAll(n int64, seen, all int) int64 {
	if seen == 0 || seen == all {
		return n
	}
	return int64(min(float64(n)/float64(seen)*float64(all), most))
}

// most bounds what is guessed: of a value that holds itself there is no end.
const most = 1 << 40

// hidden reports whether a field is not exported. The fields of an embedded struct speak for
// themselves.
func hidden(f reflect.StructField) bool {
	return !f.IsExported() && !(f.Anonymous && f.Type.Kind() == reflect.Struct)
}

// plain reports whether values of a type refer to nothing.
func plain(t reflect.Type) bool { return t.Kind() <= reflect.Complex128 }
