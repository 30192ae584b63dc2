package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A server is a running injectd, etcd or other server.
type server struct {
	cmd     *exec.Cmd
	address string // host:port
}

// start starts a server and returns its stderr. The kernel kills it if this process dies.
func (s *server) start() (io.Reader, error) {
	s.cmd.Env = append(environ(), s.cmd.Env...)
	s.cmd.WaitDelay = time.Second
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := s.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	return said, s.cmd.Start()
}

// stop ends the server. It returns an error if the server ends in any way but by SIGTERM.
func (s *server) stop() error {
	if s.cmd == nil {
		return nil
	}
	cmd := s.cmd
	s.cmd = nil
	err := cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil && !endedBy(err, syscall.SIGTERM) {
		return fmt.Errorf("%s: %w", filepath.Base(cmd.Path), err)
	}
	return err
}

// endedBy reports whether err is that of a process that the signal ended. After a clean stop,
// etcd ends itself by the signal.
func endedBy(err error, signal syscall.Signal) bool {
	e, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return false
	}
	status, ok := e.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == signal
}

// startInjectd serves the store that flags name as in production, with an audit log, to clients
// with certificates of a. name is that of the audit log.
func (b *bench) startInjectd(a *authority, cert pair, policy, name string, flags ...string) (*server, error) {
	s := &server{}
	s.cmd = exec.CommandContext(b.ctx, b.injectd, append([]string{ //nolint:gosec // the server that is measured
		"serve", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0",
		"--cert-file", cert.cert, "--cert-key-file", cert.key,
		"--client-ca-file", a.file, "--policy", policy, "--audit-log", b.path(name + ".audit"),
		"--rate", "0", "--audit-rate", "0",
	}, flags...)...)
	return s, s.serve()
}

// serve starts a server that writes its address to stderr in a line of JSON, as injectd does.
func (s *server) serve() error {
	said, err := s.start()
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(said)
	var text strings.Builder
	for s.address == "" && lines.Scan() {
		text.WriteString(lines.Text() + "\n")
		var line struct {
			Message string `json:"@message"`
			Address string `json:"address"`
		}
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Message == "serving" {
			_, after, scheme := strings.Cut(line.Address, "://")
			if s.address = line.Address; scheme {
				s.address = after
			}
		}
	}
	if s.address == "" {
		cmd := s.cmd
		s.cmd = nil
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), cmd.Wait(), text.String())
	}
	go io.Copy(io.Discard, said) //nolint:errcheck // until it ends
	return nil
}

// startEtcd starts etcd with its defaults and with mTLS as injectd has it. Every client may
// read every key.
func (b *bench) startEtcd(a *authority, cert pair) (*server, error) {
	return b.etcd("https", "--cert-file", cert.cert, "--key-file", cert.key,
		"--client-cert-auth", "--trusted-ca-file", a.file)
}

// etcd starts etcd with a scheme of the address for clients.
func (b *bench) etcd(scheme string, flags ...string) (*server, error) {
	ports, err := freePorts(b.ctx, 2)
	if err != nil {
		return nil, err
	}
	path, err := exec.LookPath("etcd")
	if err != nil {
		return nil, fmt.Errorf("%w (apt-get install etcd-server)", err)
	}
	s := &server{address: ports[0]}
	peers, clients := "http://"+ports[1], scheme+"://"+s.address
	s.cmd = exec.CommandContext(b.ctx, path, append(flags, //nolint:gosec // the server that is compared
		"--name", "bench", "--data-dir", b.path("etcd-"+scheme), "--log-level", "error",
		"--listen-client-urls", clients, "--advertise-client-urls", clients,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "bench="+peers)...)
	said, err := s.start()
	if err != nil {
		return nil, err
	}
	go io.Copy(io.Discard, said) //nolint:errcheck // until it ends
	return s, nil
}

// freePorts returns n addresses with ports that are free now. etcd needs them because it does
// not report a port that the kernel chose.
func freePorts(ctx context.Context, n int) (addresses []string, err error) {
	var config net.ListenConfig
	for range n {
		l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		// All stay open until there are enough, so that no port is given twice.
		defer l.Close() //nolint:errcheck,revive // nothing was written to it
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}

// cpu returns the CPU time that the server has used so far.
func (s *server) cpu() (time.Duration, error) {
	text, err := os.ReadFile(s.proc("stat"))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ") // behind the name of the process, which may have any bytes
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, errors.New("the stat of the process has no times")
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	const tick = time.Second / 100 // USER_HZ, which is 100 on every architecture that Go supports
	return time.Duration(user+system) * tick, errors.Join(err, err2)
}

// resident returns the memory of the server in MiB: private, and of mapped files.
func (s *server) resident() (own, files float64, err error) {
	text, err := os.ReadFile(s.proc("status"))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kind string
		var kib float64
		if n, _ := fmt.Sscanf(line, "%s %f kB", &kind, &kib); n != 2 {
			continue
		}
		switch kind {
		case "RssAnon:", "RssShmem:":
			own += kib / 1024
		case "RssFile:":
			files = kib / 1024
		}
	}
	if own == 0 {
		return 0, 0, errors.New("the status of the process has no RssAnon")
	}
	return own, files, nil
}

func (s *server) proc(file string) string {
	return filepath.Join("/proc", fmt.Sprint(s.cmd.Process.Pid), file)
}
