package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const storageName = "storage"

// The targets of storage: as multiples of the speed of the same client without the guard, and the
// memory that the guard adds to inject.
const (
	uploadTarget   = 0.9
	downloadTarget = 0.85
	objectsTarget  = 0.8
	guardTarget    = 64 // MiB
)

// storage compares the storage calls of Flyte's SDK through the guard with the same calls straight to
// the same object store, which checks signatures and keeps objects as plain files.
func (b *bench) storage() (err error) {
	gateway, err := filepath.Abs("../bin/versitygw")
	if err != nil {
		return err
	}
	python, err := filepath.Abs("../bin/sdk/bin/python")
	if err != nil {
		return err
	}
	for _, need := range []string{gateway, python} {
		if _, err := os.Stat(need); err != nil {
			b.report.note("skipped: %s (make storage sdk)", err)
			return nil
		}
	}
	s, err := b.startGateway(gateway)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	env, err := b.home(b.inject, nil)
	if err != nil {
		return err
	}
	env = append(env, "FLYTE_AWS_ENDPOINT=http://"+s.address, "FLYTE_AWS_ACCESS_KEY_ID="+gatewayID,
		"FLYTE_AWS_SECRET_ACCESS_KEY="+gatewayKey)
	var clients []*storageClient
	defer func() {
		for _, c := range clients {
			err = errors.Join(err, c.stop())
		}
	}()
	for _, inject := range [][]string{
		nil,
		{b.inject, "run", "--secret", "K", "--storage", "guard", "--"},
		{b.inject, "run", "--secret", "K", "--storage", "off", "--"},
	} {
		c, err := b.startStorageClient(slices.Concat(inject, []string{python, "storage.py"}), env)
		if err != nil {
			return err
		}
		clients = append(clients, c)
	}
	if err := b.fillStorage(); err != nil {
		return err
	}
	return b.compareStorage(clients)
}

// The pair of keys of the gateway, and its bucket.
const (
	gatewayID  = "bench"
	gatewayKey = "the-key-of-the-gateway"
	bucket     = "bkt"
)

// startGateway starts an object store with a bucket.
func (b *bench) startGateway(program string) (*server, error) {
	if err := os.MkdirAll(b.path("gateway/"+bucket), 0o700); err != nil {
		return nil, err
	}
	ports, err := freePorts(b.ctx, 1)
	if err != nil {
		return nil, err
	}
	s := &server{address: ports[0]}
	s.cmd = exec.CommandContext(b.ctx, program, //nolint:gosec // the server of both
		"--port", s.address, "--quiet", "--keep-alive", "posix", b.path("gateway"))
	s.cmd.Env = []string{"ROOT_ACCESS_KEY=" + gatewayID, "ROOT_SECRET_KEY=" + gatewayKey}
	said, err := s.start()
	if err != nil {
		return nil, err
	}
	go io.Copy(io.Discard, said) //nolint:errcheck // until it ends
	for range 200 {
		c, err := (&net.Dialer{}).DialContext(b.ctx, "tcp", s.address)
		if err == nil {
			return s, c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil, errors.Join(errors.New("versitygw does not serve"), s.stop())
}

// A storageClient is a process that does storage calls, below inject or not.
type storageClient struct {
	server

	in  io.WriteCloser
	out *bufio.Reader
}

func (b *bench) startStorageClient(args, env []string) (*storageClient, error) {
	c := &storageClient{}
	c.cmd = exec.CommandContext(b.ctx, args[0], args[1:]...) //nolint:gosec // what is measured
	c.cmd.Env = env
	in, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	said, err := c.start()
	if err != nil {
		return nil, err
	}
	c.in, c.out = in, bufio.NewReader(out)
	var text bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&text, said) // until it ends
	}()
	if line, err := c.out.ReadString('\n'); line != "ready\n" {
		_ = in.Close()
		<-read
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(short(args), " "), errors.Join(err, c.cmd.Wait()), &text)
	}
	return c, nil
}

// stop ends the client.
func (c *storageClient) stop() error { return errors.Join(c.in.Close(), c.cmd.Wait()) }

// do copies source to target, one of which is in the bucket, and returns how long that took.
func (c *storageClient) do(source, target string, recursive bool) (time.Duration, error) {
	if err := json.NewEncoder(c.in).Encode([]any{source, target, recursive}); err != nil {
		return 0, err
	}
	line, err := c.out.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return time.ParseDuration(strings.TrimSpace(line) + "s")
}

// fillStorage makes the files that are uploaded: a large one, and many small ones in a folder.
func (b *bench) fillStorage() error {
	random := mathrand.NewChaCha8([32]byte{seed % 251})
	fill := func(name string, size int) error {
		f, err := os.Create(b.path(name))
		if err != nil {
			return err
		}
		_, err = io.CopyN(f, random, int64(size))
		return errors.Join(err, f.Close())
	}
	if err := os.MkdirAll(b.path("objects"), 0o700); err != nil {
		return err
	}
	for i := range b.objects {
		if err := fill(fmt.Sprintf("objects/%d", i), 4<<10); err != nil {
			return err
		}
	}
	return fill("object", b.object)
}

// compareStorage measures each kind of copy by the clients: straight, through the guard, and below
// inject without the guard, which is only there for its memory.
func (b *bench) compareStorage(clients []*storageClient) error {
	const remote, stored = "s3://" + bucket + "/", "gateway/" + bucket + "/"
	large := fmt.Sprintf("%d MiB", b.object>>20)
	small := fmt.Sprintf("%d objects of 4 KiB", b.objects)
	for _, kind := range []struct {
		name, from, to, made string // made is the file or the folder that the copy makes
		bytes                int
		target               float64
	}{
		{"upload of " + large, b.path("object"), remote + "object", stored + "object", b.object, uploadTarget},
		{"download of " + large, remote + "object", b.path("got"), "got", b.object, downloadTarget},
		{
			"upload of " + small, b.path("objects"), remote + "objects", stored + "objects", b.objects << 12,
			objectsTarget,
		},
		{"download of " + small, remote + "objects", b.path("gots"), "gots", b.objects << 12, objectsTarget},
	} {
		copied := func(c *storageClient) (time.Duration, error) {
			if err := os.RemoveAll(b.path(kind.made)); err != nil {
				return 0, err
			}
			t, err := c.do(kind.from, kind.to, b.objects<<12 == kind.bytes)
			if err == nil {
				b.report.Checked++
				err = b.sameFiles(kind.made)
			}
			return t, err
		}
		var used []float64
		times, err := alternate(min(b.rounds, 9), []contender{
			{"straight", func() (time.Duration, error) { return copied(clients[0]) }},
			{"guard", func() (time.Duration, error) {
				before, err := clients[1].cpu()
				if err != nil {
					return 0, err
				}
				t, err := copied(clients[1])
				after, err2 := clients[1].cpu()
				used = append(used, (after-before).Seconds()*(1<<30)/float64(kind.bytes))
				return t, errors.Join(err, err2)
			}},
		})
		if err != nil {
			return err
		}
		if _, err := copied(clients[2]); err != nil {
			return err
		}
		b.report.add(Row{Name: kind.name, Unit: "MB/s", Value: rates(kind.bytes, times[0])})
		row := Row{Name: kind.name + ", through the guard", Unit: "MB/s", Value: rates(kind.bytes, times[1])}
		row.versus("no guard", ratios(times[1], times[0]))
		row.atLeast(kind.target)
		b.report.add(row)
		b.report.add(Row{Name: "CPU of inject for it, by GiB", Unit: "s", Value: statOf(used)})
	}
	with, err := peakMemory(clients[1].cmd.Process.Pid)
	if err != nil {
		return err
	}
	without, err := peakMemory(clients[2].cmd.Process.Pid)
	if err != nil {
		return err
	}
	row := Row{Name: "peak memory of inject, less that without the guard", Unit: "MiB"}
	row.Value = statOf([]float64{with - without})
	row.atMost(guardTarget)
	b.report.add(row)
	return nil
}

// sameFiles returns an error unless a copy of the files has the same bytes.
func (b *bench) sameFiles(made string) error {
	source := "object"
	if info, err := os.Stat(b.path(made)); err != nil {
		return err
	} else if info.IsDir() {
		source = "objects"
	}
	n := 0
	err := filepath.WalkDir(b.path(source), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		rel, err := filepath.Rel(b.path(source), path)
		if err != nil {
			return err
		}
		return same(path, filepath.Join(b.path(made), rel))
	})
	if err == nil && n == 0 {
		err = errors.New("no files were compared")
	}
	return err
}

// same returns an error unless two files have the same bytes.
func same(a, b string) error {
	files := make([]*os.File, 2)
	for i, name := range []string{a, b} {
		f, err := os.Open(name) //nolint:gosec // of the run
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck,revive // it was read
		files[i] = f
	}
	const size = 1 << 20
	left, right := make([]byte, size), make([]byte, size)
	for {
		n, err := io.ReadFull(files[0], left)
		m, err2 := io.ReadFull(files[1], right)
		if !bytes.Equal(left[:n], right[:m]) {
			return fmt.Errorf("wrong copy: %s differs from %s", b, a)
		}
		if err != nil || err2 != nil {
			if err = errors.Join(err, err2); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = nil
			}
			return err
		}
	}
}
