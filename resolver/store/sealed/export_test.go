package sealed

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
