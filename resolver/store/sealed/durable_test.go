package sealed_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
	"inject/resolver/store/storetest"
)

// runChild turns this test binary into one of its children.
func runChild() {
	runPlugin()
	if dir := os.Getenv("SEALED_TEST_WRITER"); dir != "" {
		from, _ := strconv.Atoi(os.Getenv("SEALED_TEST_FROM"))
		to, _ := strconv.Atoi(os.Getenv("SEALED_TEST_TO"))
		err := writer(dir, from, to)
		if err == nil && os.Getenv("SEALED_TEST_REWRAP") != "" {
			err = rewrapper(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// step is the nth change of a fixed sequence: 40 secrets are created, updated
// and deleted, round after round.
func step(n int) (ref secret.Ref, round int, value []byte) {
	const secrets = 40
	i := n % secrets
	ref = secret.Ref{Scope: storetest.Scopes[i%len(storetest.Scopes)], Key: fmt.Sprintf("K%d", i)}
	return ref, n / secrets % 3, bytes.Repeat(fmt.Appendf(nil, "%d of %v,", n, ref), 1+n%50)
}

// stateAfter returns what is in the store after the first n steps.
func stateAfter(n int) map[secret.Ref][]byte {
	state := map[secret.Ref][]byte{}
	for i := range n {
		ref, round, value := step(i)
		state[ref] = value
		if round == 2 {
			state[ref] = nil
		}
	}
	return state
}

// writer takes the steps from one number up to another and acknowledges each on
// stdout once the store has.
func writer(dir string, from, to int) error {
	for n := from; n < to; {
		s, err := sealed.Open(ctx, options(dir))
		if err != nil {
			return err
		}
		for range 20 {
			ref, round, value := step(n)
			switch round {
			case 0:
				err = s.Create(ctx, ref, secret.NewValue(value), store.Regular)
			case 1:
				err = s.Update(ctx, ref, secret.NewValue(value))
			case 2:
				err = s.Delete(ctx, ref)
			}
			if err != nil {
				return err
			}
			fmt.Printf("ack %d\n", n)
			if n++; n == to {
				break
			}
		}
		if err := s.Close(); err != nil {
			return err
		}
	}
	return nil
}

// newKey is the key that rewrapper gives the store.
func newKey(dir string) sealed.Key { return sealed.Key{File: filepath.Join(dir, "new", "key.txt")} }

// rewrapper makes another key open the store, and acknowledges it.
func rewrapper(dir string) error {
	s, err := sealed.Open(ctx, options(dir))
	if err != nil {
		return err
	}
	if err := s.Rewrap(ctx, newKey(dir)); err != nil {
		return err
	}
	fmt.Println("ack rewrap")
	return s.Close()
}

func writerCommand(dir string, from, to int) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SEALED_TEST_WRITER="+dir, fmt.Sprintf("SEALED_TEST_FROM=%d", from), fmt.Sprintf("SEALED_TEST_TO=%d", to))
	return cmd
}

// checkSteps returns the number of steps whose effect is in the store at dir:
// acked, or one more, which was under way; an error for anything else.
func checkSteps(dir string, acked int) (int, error) {
	o := options(dir)
	err := checkWhole(o, stateAfter(acked))
	if err == nil && acked == 0 {
		_, err = os.Stat(o.Path)
		if errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
	}
	if err == nil {
		// An update of the step under way would be seen as a wrong value; a delete of
		// an absent or a create of an equal one cannot be told apart, and need not be.
		return acked, nil
	}
	if err2 := checkWhole(o, stateAfter(acked+1)); err2 != nil {
		return 0, fmt.Errorf("after %d acknowledged steps: %w; with one more: %w", acked, err, err2)
	}
	return acked + 1, nil
}

// TestKill kills a writing process with SIGKILL, hundreds of times, and every
// time looks whether what was acknowledged is there and nothing is half there.
func TestKill(t *testing.T) {
	kills := 300
	if raceEnabled {
		kills = 30
	}
	dir, done := t.TempDir(), 0
	for kill := range kills {
		if kill%25 == 0 {
			dir, done = t.TempDir(), 0 // so that the making of the store is killed, too
		}
		cmd := writerCommand(dir, done, 1<<30)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		require.NoError(t, cmd.Start())
		time.AfterFunc(time.Duration(rand.IntN(40_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
		b, err := io.ReadAll(out)
		require.NoError(t, err)
		require.ErrorContains(t, cmd.Wait(), "signal: killed", stderr.String())
		done += bytes.Count(b, []byte("\n"))
		done, err = checkSteps(dir, done)
		require.NoErrorf(t, err, "kill %d", kill)
	}
}

// everySyncPoint records the system calls of a writer, and rebuilds what a power cut
// would have left on the disk at every point between them: what was synced, with
// none, all, and random choices of what was not. check is told the folder of each,
// and how much had been acknowledged by then.
func everySyncPoint(t *testing.T, dir string, writer *exec.Cmd, acks int, check func(state string, acked int) error) {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil && os.Getenv("INJECT_TEST_NO_SKIP") == "" {
		t.Skip("strace is not installed (CI installs it)")
	}
	require.NoError(t, err)
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command(strace, append([]string{
		"-f", "-y", "-xx", "-s", "100000000", "-o", log,
		"-e", "trace=write,pwrite64,ftruncate,fsync,fdatasync,linkat,mkdirat,renameat,renameat2", "--", writer.Path,
	}, writer.Args[1:]...)...)
	cmd.Env = writer.Env
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	text, err := os.ReadFile(log)
	require.NoError(t, err)

	d := disk{root: dir, files: map[string]*file{}}
	checked, last := 0, 0
	for _, call := range calls(t, string(text)) {
		acked := d.do(t, call)
		require.GreaterOrEqual(t, acked, last)
		last = acked
		for variant := range 4 {
			state := t.TempDir()
			d.crash(t, state, variant)
			require.NoErrorf(t, check(state, acked), "variant %d after %.200s", variant, call)
			require.NoError(t, os.RemoveAll(state))
			checked++
		}
	}
	require.Equal(t, acks, last, "every step was recorded")
	require.Greater(t, checked, acks*4)
	t.Logf("%d states of the disk", checked)
}

// Whatever had been acknowledged is there after a power cut.
func TestEverySyncPoint(t *testing.T) {
	const steps = 45
	dir := t.TempDir()
	everySyncPoint(t, dir, writerCommand(dir, 0, steps), steps, func(state string, acked int) error {
		_, err := checkSteps(state, acked)
		return err
	})
}

// A power cut while the key is changed leaves a store that the old key opens or the
// new one, and the new one alone once that was acknowledged.
func TestRewrapSyncPoints(t *testing.T) {
	const steps = 5
	dir := t.TempDir()
	cmd := writerCommand(dir, 0, steps)
	cmd.Env = append(cmd.Env, "SEALED_TEST_REWRAP=1")
	byOld, byNew := 0, 0
	everySyncPoint(t, dir, cmd, steps+1, func(state string, acked int) error {
		_, old := checkSteps(state, min(acked, steps))
		o := options(state)
		o.Key = newKey(state)
		renewed := checkWhole(o, stateAfter(steps))
		switch {
		case old == nil && acked <= steps:
			byOld++
			return nil
		case errors.Is(old, secret.ErrDenied) && renewed == nil && acked >= steps:
			byNew++
			return nil
		}
		return fmt.Errorf("old key: %w; new key: %w", old, renewed)
	})
	require.Positive(t, byOld)
	require.Positive(t, byNew)
}

// disk is what a recorded process did to the files under root.
type disk struct {
	root  string
	files map[string]*file
	links []link // in order
	acked int
}

type file struct {
	content []byte
	synced  []byte
	writes  []func([]byte) []byte // since the last sync
}

type link struct {
	path   string
	target *file // nil: a folder
	synced bool
}

var (
	callLine = regexp.MustCompile(`^(\d+) +(.*)$`)
	hexByte  = regexp.MustCompile(`\\x[0-9a-f]{2}`)
	// pwrite64(5</path>, "\x00…", 4096, 8192) = 4096
	callForm = regexp.MustCompile(`^(\w+)\((.*)\) += (-?\d+)`)
)

// calls returns the successful calls of an strace log, in the order in which
// they returned.
func calls(t *testing.T, log string) []string {
	var all []string
	begun := map[string]string{}
	lines := bufio.NewScanner(strings.NewReader(log))
	lines.Buffer(nil, 1<<30)
	for lines.Scan() {
		m := callLine.FindStringSubmatch(lines.Text())
		require.NotNil(t, m)
		pid, call := m[1], m[2]
		if before, ok := strings.CutSuffix(call, " <unfinished ...>"); ok {
			begun[pid] = before
			continue
		}
		if strings.HasPrefix(call, "<... ") {
			_, rest, _ := strings.Cut(call, "resumed>")
			call = begun[pid] + rest
		}
		if form := callForm.FindStringSubmatch(call); form != nil && !strings.HasPrefix(form[3], "-") {
			all = append(all, call)
		}
	}
	require.NoError(t, lines.Err())
	return all
}

func unhex(s string) []byte {
	return []byte(hexByte.ReplaceAllStringFunc(s, func(h string) string {
		n, _ := strconv.ParseUint(h[2:], 16, 8)
		return string([]byte{byte(n)})
	}))
}

// do applies one call and returns how many steps were acknowledged so far.
func (d *disk) do(t *testing.T, call string) int {
	form := callForm.FindStringSubmatch(call)
	name, args := form[1], form[2]
	quoted := regexp.MustCompile(`"((?:\\x[0-9a-f]{2})*)"`).FindAllStringSubmatch(args, -1)
	path := "" // of the descriptor
	if m := regexp.MustCompile(`^\d+<([^>]*)>`).FindStringSubmatch(args); m != nil {
		path = string(unhex(m[1]))
	}
	numbers := regexp.MustCompile(`, (\d+)`).FindAllStringSubmatch(args, -1)
	number := func(i int) int {
		n, err := strconv.Atoi(numbers[i][1])
		require.NoError(t, err, call)
		return n
	}
	inside := strings.HasPrefix(path, d.root+"/")
	switch name {
	case "write":
		data := unhex(quoted[0][1])
		if strings.HasPrefix(args, "1<") {
			d.acked += bytes.Count(data, []byte("ack "))
		} else if inside {
			f := d.file(path)
			f.write(func(b []byte) []byte { return append(b, data...) })
		}
	case "pwrite64":
		require.True(t, inside, call)
		data, at := unhex(quoted[0][1]), number(len(numbers)-1)
		d.file(path).write(func(b []byte) []byte {
			if len(b) < at+len(data) {
				b = append(b, make([]byte, at+len(data)-len(b))...)
			}
			copy(b[at:], data)
			return b
		})
	case "ftruncate":
		size := number(0)
		d.file(path).write(func(b []byte) []byte {
			if len(b) > size {
				return b[:size]
			}
			return append(b, make([]byte, size-len(b))...)
		})
	case "fsync", "fdatasync":
		if f := d.files[path]; f != nil {
			f.synced, f.writes = slices.Clone(f.content), nil
			break
		}
		for i, l := range d.links {
			if filepath.Dir(l.path) == path {
				d.links[i].synced = true
			}
		}
	case "mkdirat":
		if p := string(unhex(quoted[0][1])); strings.HasPrefix(p, d.root+"/") {
			d.links = append(d.links, link{path: p})
		}
	case "linkat", "renameat2":
		from, to := string(unhex(quoted[0][1])), string(unhex(quoted[1][1]))
		d.files[to] = d.file(from)
		d.links = append(d.links, link{path: to, target: d.files[to]})
	default:
		require.Fail(t, "an unexpected call", call)
	}
	return d.acked
}

func (d *disk) file(path string) *file {
	f := d.files[path]
	if f == nil {
		f = &file{}
		d.files[path] = f
	}
	return f
}

func (f *file) write(w func([]byte) []byte) {
	f.content = w(f.content)
	f.writes = append(f.writes, w)
}

// crash writes to dir what a power cut would leave now: everything synced, and
// of the rest nothing (variant 0), all (1) or a random choice.
func (d *disk) crash(t *testing.T, dir string, variant int) {
	lucky := func() bool { return variant == 1 || variant > 1 && rand.IntN(2) == 0 }
	made := map[string]bool{d.root: true}
	for _, l := range d.links {
		if !made[filepath.Dir(l.path)] || !l.synced && !lucky() {
			continue
		}
		path := dir + strings.TrimPrefix(l.path, d.root)
		if l.target == nil {
			made[l.path] = true
			require.NoError(t, os.Mkdir(path, 0o700))
			continue
		}
		b := slices.Clone(l.target.synced)
		for _, w := range l.target.writes {
			if lucky() {
				b = w(b)
			}
		}
		require.NoError(t, os.WriteFile(path, b, 0o600))
	}
}

// What cannot be made is an error that says that nothing was; a disk that fills
// up is in cmd/inject's scripts.
func TestCannotMake(t *testing.T) {
	o := options(t.TempDir())
	s := open(t, o)
	require.NoError(t, os.WriteFile(filepath.Dir(o.Key.File), nil, 0o600)) // where the key's folder belongs
	require.Error(t, s.Create(t.Context(), keyRef, secret.Value{}, store.Regular))
	require.NoFileExists(t, o.Path, "no store without a key")

	o = options(t.TempDir())
	require.NoError(t, os.WriteFile(filepath.Dir(o.Path), nil, 0o600))
	_, err := sealed.Open(t.Context(), o)
	require.ErrorIs(t, err, secret.ErrUnavailable)
}
