package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"inject/cli"
	"inject/exec"
	"inject/injector/outputs"
	"inject/resolver/secret"
)

// maxTermination is how much of a termination message kubelet keeps, in bytes.
const maxTermination = 4096

// terminationMessage writes why the task did not run, as one line of JSON, to
// where kubelet looks for it. Names and scopes, never values.
func (a *app) terminationMessage(err error) {
	path := a.messagePath()
	if path == "" {
		return
	}
	message := struct {
		Reason    string   `json:"reason"`
		Retryable bool     `json:"retryable"`
		Message   string   `json:"message"`
		Keys      []string `json:"keys,omitempty"`
		LookedIn  []string `json:"looked_in,omitempty"`
	}{Reason: reason(err)}
	message.Retryable = message.Reason == "unavailable"
	if e, ok := errors.AsType[*outputs.LeakError](err); ok {
		message.Keys = e.Keys()
	}
	for _, f := range failures(err) {
		if f.key != "" {
			message.Keys = append(message.Keys, f.key)
			if len(f.lookedIn) > len(message.LookedIn) { // one ladder; some climbs end early
				message.LookedIn = f.lookedIn
			}
		}
	}
	message.Message = a.mask(err.Error())
	b, _ := json.Marshal(message) // texts only
	for len(b) >= maxTermination {
		// Cut what repeats the most; keys are also in the log.
		message.Message = strings.ToValidUTF8(message.Message[:len(message.Message)/2], "")
		message.Keys = message.Keys[:len(message.Keys)/2]
		b, _ = json.Marshal(message)
	}
	err = a.keepMessage() // unless that was done: flags come first
	if err == nil && a.message == nil {
		a.message, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644) //nolint:gosec // the operator's file, for kubelet
	}
	if err == nil {
		_, err = a.message.Write(append(b, '\n'))
		err = errors.Join(err, a.message.Close())
	}
	if err != nil {
		a.log.Warn("the termination message could not be written", "error", err)
	}
}

// messagePath returns where the termination message is; "" for nowhere.
func (a *app) messagePath() string {
	log := &a.set.Message.TerminationLog
	if *log = cmp.Or(*log, a.settings.Env(cli.Twin("termination-log"))); *log == "" {
		const usual = "/dev/termination-log"
		if _, err := os.Stat(usual); err == nil {
			*log = usual
		}
	}
	return *log
}

// hasMessage reports whether the command has left a termination message of its own.
func (a *app) hasMessage() bool {
	info, err := os.Lstat(a.messagePath())
	return err == nil && a.message == nil && (info.Mode().IsRegular() && info.Size() > 0 || info.Mode()&os.ModeSymlink != 0)
}

// keepMessage makes the termination log's name one that holds in another working
// folder, too; and takes a descriptor of ours as it is: a container's /dev/stderr is
// often not ours to open, what is in it stays, and its number is another's when what
// we have inherited is closed.
func (a *app) keepMessage() (err error) {
	path := a.set.Message.TerminationLog
	if path == "" || a.message != nil {
		return nil
	}
	number, ok := strings.CutPrefix(path, "/dev/fd/")
	switch {
	case path == "/dev/stdout":
		number, ok = "1", true
	case path == "/dev/stderr":
		number, ok = "2", true
	case !ok:
		number, ok = strings.CutPrefix(path, "/proc/self/fd/")
	}
	fd, notNumber := strconv.Atoi(number)
	if !ok || notNumber != nil {
		a.set.Message.TerminationLog, err = filepath.Abs(path)
		return err
	}
	if fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	a.message = os.NewFile(uintptr(fd), path)
	return nil
}

// reason is the class of a failure, for programs.
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
