package sealed

import "errors"

// Format returns the format of the file of s as it is now.
func (s *Store) Format() (format int, err error) {
	err = s.view(func(t *tx) error { format = t.format; return nil })
	return format, err
}

// RewriteInParts makes every rewriting of format 1 in this process write its index in parts of n
// entries.
func RewriteInParts(n int) { rewritePart = n }

// Stale reports whether a rewriting of format 1 has begun and not ended.
func (s *Store) Stale() (stale bool, err error) {
	err = s.view(func(t *tx) error {
		var r rewriting
		if t.format > 1 {
			return nil
		}
		err := r.readStale(t)
		stale = len(r.stale) > 0
		return err
	})
	return stale, err
}

// FailRewrite rewrites format 1, but for the last transaction, which fails.
func (s *Store) FailRewrite() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	var r rewriting
	err := s.view(r.read)
	if err == nil {
		err = s.commit(func(t *tx) error { return errors.Join(r.add(t, r.entries), t.keepRoot1()) })
	}
	if err != nil {
		return err
	}
	failed := errors.New("the disk is full")
	err = s.commit(func(t *tx) error { return errors.Join(r.finish(t), failed) })
	if !errors.Is(err, failed) {
		return errors.Join(errors.New("it did not fail"), err)
	}
	return nil
}

// HoldChanges makes changes wait until release is called, as a long one does.
func (s *Store) HoldChanges() (release func()) {
	s.writing.Lock()
	return s.writing.Unlock
}

// Descriptor returns the descriptor of the open file.
func (s *Store) Descriptor() int { return int(s.file.Fd()) }
