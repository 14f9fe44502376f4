// Package shm makes POSIX shared memory that a server on the same machine can be given, and cleans up after
// owners that died.
//
// An object's name cannot be guessed, and only the user who made it can open it. It is unlinked as soon as the other side
// has it open, so that a crash of either side leaves nothing behind; [Sweep] removes what a crash before that
// moment has left. A [Claim] makes names for what a server remembers of its clients, such as a registration, and tells later
// whose maker is gone.
//
// On systems other than Linux every function that makes something returns [errors.ErrUnsupported].
package shm

import (
	"crypto/rand"
	"strings"
)

// prefix begins the name of every object and of every claim.
const prefix = "tensorferry-"

// Segment is a shared memory object, mapped for reading and writing.
type Segment struct {
	key      string
	data     []byte
	unlink   func() error
	unmap    func() error
	unlinked bool
}

// Key returns the name by which another process opens the object, as shm_open takes it: with one slash before it.
func (s *Segment) Key() string { return "/" + s.key }

// Bytes returns the memory. It must not be touched after Close.
func (s *Segment) Bytes() []byte { return s.data }

// Unlink takes the name away. Who has the object open keeps it.
func (s *Segment) Unlink() error {
	if s.unlinked {
		return nil
	}
	s.unlinked = true
	return s.unlink()
}

// Close unlinks and unmaps the object. Nothing may use Bytes any more. It may be called again. A segment's methods are not safe for
// concurrent use.
func (s *Segment) Close() error {
	if s.data == nil {
		return nil
	}
	s.data = nil
	err := s.Unlink()
	if e := s.unmap(); err == nil {
		err = e
	}
	return err
}

// Claim is a name that is its maker's for as long as the process lives. It begins with "tensorferry-".
type Claim struct {
	name string
	free func()
}

// Name returns the name. Names that begin with it and a dash are the claim's too.
func (c *Claim) Name() string { return c.name }

// Free gives the name up. It may be called again.
func (c *Claim) Free() { c.free() }

// split takes a name of a claim apart: the place where its maker can be asked for, and the claim itself.
func split(name string) (place, id string, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return "", "", false
	}
	place, rest, _ = strings.Cut(rest, "-")
	id, _, _ = strings.Cut(rest, "-")
	return place, id, place != "" && len(id) == len(rand.Text())
}
