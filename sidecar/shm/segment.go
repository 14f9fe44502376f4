package shm

// Segment is a shared memory object, mapped for reading and writing. Its methods are not safe for
// concurrent use.
type Segment struct {
	key      string
	data     []byte
	unlink   func() error
	unmap    func() error
	unlinked bool
}

// Key returns the name by which another process opens the object. It begins with a slash, as
// shm_open expects.
func (s *Segment) Key() string { return "/" + s.key }

// Bytes returns the memory. It must not be used after Close.
func (s *Segment) Bytes() []byte { return s.data }

// Unlink removes the object's name. A process that has the object open keeps it. Further calls do
// nothing.
func (s *Segment) Unlink() error {
	if s.unlinked {
		return nil
	}
	s.unlinked = true
	return s.unlink()
}

// Close unlinks and unmaps the object. The slice from Bytes must not be used any more. Further
// calls do nothing.
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
