package checkpoint

import "errors"

// Abandon deletes the run under way, so that the folder is as it was before the run began. It is
// for a start that failed before anything was read; otherwise a user would have to resume or
// discard the run. The run may have only the checkpoint of its beginning, which has the id 0. With
// a later one, Abandon returns an error.
func (s *Store) Abandon() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil || s.run == "" {
		return errors.New("checkpoint: the store is read-only or closed, or has not begun a run")
	}
	list, err := s.checkpoints(s.run)
	if err != nil {
		return err
	}
	if n := len(list); n > 0 && list[n-1].ID > 0 {
		return errors.New("checkpoint: the run has checkpoints, so it cannot be abandoned")
	}
	run := s.run
	s.run = ""
	return s.discard(run)
}
