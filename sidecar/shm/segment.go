package shm

// Segment is a shared memory object, mapped for reading and writing.
type Segment struct {
	key      string
	data     []byte
	unlink   func() error
	unmap    func() error
	unlinked bool
}

// Key returns the name by which another process opens the object, as shm_open takes it: with one
// slash before it.
func (s *Segment) Key() string { return "/" + s.key }

// Bytes returns the memory. It must not be touched after Close.
func (s *Segment) Bytes() []byte { return s.data }

// Unlink takes the name away. A process that has the object open keeps it.
func (s *Segment) Unlink() error {
	if s.unlinked {
		return nil
	}
	s.unlinked = true
	return s.unlink()
}

// Close unlinks and unmaps the object. Nothing may use Bytes any more. It may be called again. A
// segment's methods are not safe for concurrent use.
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
