package terminal

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// Write shows output of the program on the person's terminal, so that exactly these bytes arrive
// behind it. The pseudo-terminal has already put a carriage return in front of each line feed, if
// the program wants that. So where the person's terminal would do it again, Write takes them out.
// What would be changed all the same, as the lone line feed of a full-screen program, is written
// while the terminal's processing is off.
func (t *Terminal) Write(p []byte) (int, error) {
	text := p
	processed, forced := t.beginWrite(p)
	if processed {
		text = bytes.ReplaceAll(p, []byte("\r\n"), []byte("\n"))
	}
	_, err := t.out.Write(text)
	t.endWrite(forced)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// beginWrite reports whether the person's terminal puts a carriage return in front of each line
// feed. If the terminal would change p in another way, beginWrite turns the processing of output
// off, if it may, and reports that it has forced it off. Until endWrite these modes stay.
func (t *Terminal) beginWrite(p []byte) (processed, forced bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.follow(false)
	t.writing = true
	now, err := modes(int(t.out.Fd()))
	if err != nil || now.Oflag&unix.OPOST == 0 {
		return false, false
	}
	const all = unix.ONLCR | unix.OCRNL | unix.ONOCR | unix.ONLRET
	processed = now.Oflag&all == unix.ONLCR
	if now.Oflag&all == 0 || processed && !alone(p) || !t.raw || !t.Foreground() {
		return processed, false
	}
	now.Oflag &^= unix.OPOST
	forced = setModes(t.user, &now) == nil
	return processed && !forced, forced
}

// alone reports whether p has a line feed with no carriage return in front of it.
func alone(p []byte) bool {
	return bytes.Count(p, []byte{'\n'}) != bytes.Count(p, []byte("\r\n"))
}

// endWrite undoes what beginWrite has forced.
func (t *Terminal) endWrite(forced bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.writing = false
	if !forced || !t.raw || !t.Foreground() {
		return
	}
	if now, err := modes(t.user); err == nil {
		now.Oflag |= unix.OPOST
		_ = setModes(t.user, &now)
	}
}
