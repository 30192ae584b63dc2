package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"inject/exec"
	"inject/injector/outputs"
	"inject/resolver/secret"
)

// maxTermination is how many bytes of a termination message the kubelet keeps.
const maxTermination = 4096

// message is the termination message of a container, which the kubelet reads when it ends.
type message struct {
	path string   // where it is; "" for the usual place, if it exists
	file *os.File // the file, if path names an inherited descriptor
}

// write writes why the task failed, as one line of JSON with the names of secrets and scopes.
// mask masks the values that are known.
func (m *message) write(err error, mask func(string) string) error {
	path := m.place()
	if path == "" {
		return nil
	}

	text := struct {
		Reason    string   `json:"reason"`
		Retryable bool     `json:"retryable"`
		Message   string   `json:"message"`
		Keys      []string `json:"keys,omitempty"`
		LookedIn  []string `json:"looked_in,omitempty"`
	}{Reason: reason(err)}
	text.Retryable = text.Reason == "unavailable"
	if e, ok := errors.AsType[*outputs.LeakError](err); ok {
		text.Keys = e.Keys()
	}
	for _, f := range failures(err) {
		if f.key != "" {
			text.Keys = append(text.Keys, f.key)
			if len(f.lookedIn) > len(text.LookedIn) { // one ladder; some climbs end early
				text.LookedIn = f.lookedIn
			}
		}
	}

	text.Message = mask(err.Error())
	b, _ := json.Marshal(text) // texts only
	for len(b) >= maxTermination {
		// Cut the text and the keys; both are also in the log.
		text.Message = strings.ToValidUTF8(text.Message[:len(text.Message)/2], "")
		text.Keys = text.Keys[:len(text.Keys)/2]
		b, _ = json.Marshal(text)
	}

	err = m.keep() // unless that was done: flags come first
	if err == nil && m.file == nil {
		const flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
		m.file, err = os.OpenFile(path, flags, 0o644) //nolint:gosec // the operator's file, for kubelet
	}
	if err == nil {
		_, err = m.file.Write(append(b, '\n'))
		err = errors.Join(err, m.file.Close())
	}
	return err
}

// place returns the path of the message, "" if there is none.
func (m *message) place() string {
	if m.path == "" {
		const usual = "/dev/termination-log"
		if _, err := os.Stat(usual); err == nil {
			m.path = usual
		}
	}
	return m.path
}

// isThere reports whether the command has written a message of its own.
func (m *message) isThere() bool {
	info, err := os.Lstat(m.place())
	return err == nil && m.file == nil &&
		(info.Mode().IsRegular() && info.Size() > 0 || info.Mode()&os.ModeSymlink != 0)
}

// keep makes path absolute, since the working folder may change. If path names a descriptor
// that inject inherited, such as /dev/stderr, keep duplicates the descriptor: opening it anew
// is often denied in a container, or would truncate the file, and its number may be used for
// another file later.
func (m *message) keep() (err error) {
	if m.path == "" || m.file != nil {
		return nil
	}
	number, ok := strings.CutPrefix(m.path, "/dev/fd/")
	switch {
	case m.path == "/dev/stdout":
		number, ok = "1", true
	case m.path == "/dev/stderr":
		number, ok = "2", true
	case !ok:
		number, ok = strings.CutPrefix(m.path, "/proc/self/fd/")
	}
	fd, notNumber := strconv.Atoi(number)
	if !ok || notNumber != nil {
		m.path, err = filepath.Abs(m.path)
		return err
	}
	if fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); err != nil {
		return &os.PathError{Op: "open", Path: m.path, Err: err}
	}
	m.file = os.NewFile(uintptr(fd), m.path)
	return nil
}

// reason is the class of a failure, which programs may test.
func reason(err error) string {
	if _, ok := errors.AsType[*exec.StoppedError](err); ok {
		return "stopped"
	}
	if _, ok := errors.AsType[*outputs.LeakError](err); ok {
		return "leak"
	}
	if e, ok := errors.AsType[*exec.StartError](err); ok {
		if e.Code == exec.CodeNotFound {
			return "command_not_found"
		}
		return "command_not_executable"
	}
	return strings.ReplaceAll(secret.KindOf(err).String(), " ", "_")
}
