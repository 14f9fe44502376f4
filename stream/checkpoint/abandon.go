package checkpoint

import "errors"

// Abandon forgets the run under way, which must have no checkpoint but that of its
// beginning, with the id 0: the folder is then as it was before the run began. It is for a
// start that failed before anything was read, so that nobody has to resume or discard it.
func (s *Store) Abandon() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil || s.run == "" {
		return errors.New("checkpoint: the store is read-only, closed, or no run was begun")
	}
	list, err := s.checkpoints(s.run)
	if err != nil {
		return err
	}
	if n := len(list); n > 0 && list[n-1].ID > 0 {
		return errors.New("checkpoint: the run has checkpoints, so it is not to be forgotten")
	}
	run := s.run
	s.run = ""
	return s.discard(run)
}
