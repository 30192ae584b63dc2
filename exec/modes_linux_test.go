package exec_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	osexec "os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func init() {
	// reads says "ready", and then writes each read of its stdin into a file, until it has read "end".
	roles["reads"] = func(args []string) int {
		file, err := os.Create(args[0])
		if err != nil {
			return 1
		}
		fmt.Println("ready")
		for buf := make([]byte, 8192); ; {
			n, err := unix.Read(0, buf)
			if err != nil {
				return 1
			}
			if _, err := fmt.Fprintf(file, "%q\n", buf[:n]); err != nil {
				return 1
			}
			if bytes.Contains(buf[:n], []byte("end")) {
				return 0
			}
		}
	}
	// writes shows random bytes, and changes the modes of its terminal's output as randomly.
	roles["writes"] = func(args []string) int {
		seed, _ := strconv.ParseUint(args[0], 10, 64)
		random := mathrand.New(mathrand.NewPCG(seed, 0))
		m, err := unix.IoctlGetTermios(1, unix.TCGETS)
		if err != nil {
			return 1
		}
		pieces := []string{"\r", "\n", "\r\n", "\n\r", "\r\r\n", "text", "\x1b[A", "é", "\x00"}
		for range 300 {
			var b strings.Builder
			for range random.IntN(6) {
				b.WriteString(pieces[random.IntN(len(pieces))])
			}
			if random.IntN(20) == 0 {
				b.WriteString(strings.Repeat("line\n", 3000)) // more than one read takes
			}
			_, _ = os.Stdout.WriteString(b.String())
			if random.IntN(8) == 0 {
				m.Oflag ^= []uint32{unix.OPOST, unix.ONLCR, unix.OCRNL}[random.IntN(3)]
				if unix.IoctlSetTermios(1, unix.TCSETS, m) != nil {
					return 1
				}
			}
			if random.IntN(30) == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		return 0
	}
}

func randomSeed(t *testing.T) uint64 {
	t.Helper()
	var b [8]byte
	_, _ = rand.Read(b[:])
	seed := binary.NativeEndian.Uint64(b[:])
	t.Log("seed", seed)
	return seed
}

// setModes changes the modes of the terminal to which ours is the other side.
func setModes(t *testing.T, ours *os.File, change func(m *unix.Termios)) {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(ours.Fd()), unix.TCGETS)
	require.NoError(t, err)
	change(m)
	require.NoError(t, unix.IoctlSetTermios(int(ours.Fd()), unix.TCSETS, m))
}

// onNewTerminal runs args on a new terminal. Before that it changes the terminal's modes and types
// early; when the program has shown "ready", it types late. It returns what the terminal showed.
func onNewTerminal(t *testing.T, change func(m *unix.Termios), early, late string, args ...string) string {
	t.Helper()
	ours, theirs, err := pty.Open()
	require.NoError(t, err)
	defer ours.Close() //nolint:errcheck // only read
	setModes(t, ours, change)
	shown := typeEarly(t, ours, early)
	cmd := osexec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, cmd.Start())
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	ended := make(chan error, 1)
	if late == "" {
		go func() { ended <- cmd.Wait(); _ = theirs.Close() }()
	}
	b := make([]byte, 4096)
	for ends := 0; ends < 2; { // Linux may report the end before the last bytes
		n, err := ours.Read(b)
		if shown = append(shown, b[:n]...); err != nil {
			ends++
			continue
		}
		if late != "" && bytes.Contains(shown, []byte("ready")) {
			_, err = ours.WriteString(late)
			require.NoError(t, err)
			late = ""
			go func() { ended <- cmd.Wait(); _ = theirs.Close() }()
		}
	}
	require.NoErrorf(t, <-ended, "%q", shown)
	return string(shown)
}

// typeEarly types early, and returns what the terminal has echoed of it. The kernel echoes some time
// later, so typeEarly then types the keys that stop and start the output: in packet mode it hears of
// their effect.
func typeEarly(t *testing.T, ours *os.File, early string) (echoed []byte) {
	t.Helper()
	fd := int(ours.Fd())
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCPKT, 1))
	_, err := ours.WriteString(early + "\x13\x11")
	require.NoError(t, err)
	b := make([]byte, 4096)
	for started := false; !started; started = b[0]&unix.TIOCPKT_START != 0 {
		n, err := ours.Read(b)
		require.NoError(t, err)
		if b[0] == unix.TIOCPKT_DATA {
			echoed = append(echoed, b[1:n]...)
		}
	}
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCPKT, 0))
	return echoed
}

// wrap returns the arguments that run args under supervision.
func wrap(shared bool, args ...string) []string {
	args = append([]string{os.Args[0], "role", "on-screen"}, args...)
	if shared {
		args = append([]string{"/bin/sh", "-c", `"$@"; exit $?`, "sh"}, args...)
	}
	return args
}

// What is typed before the program starts is read by it as if there were no supervisor: each read
// returns the same, the ends of input too, and the terminal shows the same.
func TestTypedAhead(t *testing.T) {
	seed := randomSeed(t)
	keys := []string{
		"a", "word ", "é", "\t", "\x7f", "\x15", "\x17", "\r", "\n", "\n", "\n", "\x04", "\x04", "\x12",
		"\x16\x03", "\x16\x04", "\x16\x11", "\x16\x13", "\x16\x16", "\x16\x7f", "\x16\x00",
	}
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	for round := range rounds {
		t.Run(strconv.Itoa(round), func(t *testing.T) {
			t.Parallel()
			random := mathrand.New(mathrand.NewPCG(seed, uint64(round)))
			var early strings.Builder
			for range random.IntN(30) {
				early.WriteString(keys[random.IntN(len(keys))])
			}
			typed := early.String()
			// What is quoted in a line that is not complete may have its usual meaning again.
			if i := strings.LastIndexAny(typed, "\n\x04"); strings.Contains(typed[i+1:], "\x16") ||
				strings.Contains(typed[max(0, i-1):], "\x16") {
				typed += "\n"
			}
			flags := random.Uint32()
			change := func(m *unix.Termios) {
				for i, flag := range []*uint32{&m.Lflag, &m.Lflag, &m.Oflag, &m.Oflag, &m.Iflag, &m.Iflag} {
					if flags&(1<<i) != 0 {
						*flag ^= []uint32{unix.ECHO, unix.ECHOCTL, unix.OPOST, unix.ONLCR, unix.ICRNL, unix.IUTF8}[i]
					}
				}
			}
			var reads, shown [3]string
			for i := range 3 {
				file := t.TempDir() + "/reads"
				args := self("reads", file)
				if i > 0 {
					args = wrap(i == 2, args...)
				}
				shown[i] = onNewTerminal(t, change, typed, "rest\nend\n", args...)
				b, err := os.ReadFile(file)
				require.NoError(t, err)
				reads[i] = string(b)
			}
			require.Contains(t, reads[0], "end")
			for i := 1; i < 3; i++ {
				require.Equalf(t, reads[0], reads[i], "%q", typed)
				require.Equalf(t, shown[0], shown[i], "%q", typed)
			}
		})
	}
}

// The bytes that a program shows arrive unchanged, however it changes its modes meanwhile, and the
// terminal is in the end as it was.
func TestShownExactly(t *testing.T) {
	seed := randomSeed(t)
	rounds := 40
	if testing.Short() {
		rounds = 8
	}
	for round := range rounds {
		t.Run(strconv.Itoa(round), func(t *testing.T) {
			t.Parallel()
			args := self("writes", strconv.FormatUint(seed+uint64(round), 10))
			same := func(*unix.Termios) {}
			want := onNewTerminal(t, same, "", "", args...)
			require.Greater(t, len(want), 1000)
			for _, shared := range []bool{false, true} {
				got := onNewTerminal(t, same, "", "", wrap(shared, args...)...)
				if want != got {
					i := 0
					for i < min(len(want), len(got)) && want[i] == got[i] {
						i++
					}
					t.Fatalf("at %d: %q instead of %q", i, got[i:min(len(got), i+40)], want[i:min(len(want), i+40)])
				}
			}
		})
	}
}

// requireMode waits until a mode of the terminal to which ours is the other side is on or off.
func requireMode(t *testing.T, ours *os.File, want bool, is func(m *unix.Termios) bool, what string) {
	t.Helper()
	require.Eventually(t, func() bool {
		m, err := unix.IoctlGetTermios(int(ours.Fd()), unix.TCGETS)
		return err == nil && is(m) == want
	}, 20*time.Second, time.Millisecond, what)
}

func echoes(m *unix.Termios) bool    { return m.Lflag&unix.ECHO != 0 }
func processes(m *unix.Termios) bool { return m.Oflag&unix.OPOST != 0 }

// The person's terminal shows which modes the program has asked for, so that others can write to it
// and can wait until it does not echo. They can also change these modes for the program.
func TestModesFollow(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			cmd := osexec.Command(os.Args[0])
			const script = `echo ready; read x; stty -echo; read x; stty echo; read x; stty raw; echo "is raw"; read x; stty -raw
				echo cooked; until stty -a | grep -q -- "[-]echo "; do sleep 0.01; done; echo "echo is off"; read x`
			cmd.Args = []string{os.Args[0], "role", "on-screen", "/bin/sh", "-c", script}
			tty, before := screenOf(t, kind.shared, cmd)
			next := func() {
				_, err := tty.WriteString("\n")
				require.NoError(t, err)
			}
			readScreen(t, tty, "ready\r\n")
			requireMode(t, tty, true, echoes, "it echoes at first")
			// Others write to the terminal, too, and their lines begin in the first column.
			other, err := os.OpenFile(ttyName(t, tty), os.O_RDWR|unix.O_NOCTTY, 0)
			require.NoError(t, err)
			_, err = other.WriteString("1\n2\n")
			require.NoError(t, err)
			readScreen(t, tty, "1\r\n2\r\n")
			require.NoError(t, other.Close())
			next()
			requireMode(t, tty, false, echoes, "stty -echo")
			next()
			requireMode(t, tty, true, echoes, "stty echo")
			next()
			readScreen(t, tty, "is raw\n")
			requireMode(t, tty, false, processes, "stty raw")
			next()
			readScreen(t, tty, "cooked\r\n")
			requireMode(t, tty, true, processes, "stty -raw")
			setModes(t, tty, func(m *unix.Termios) { m.Lflag &^= unix.ECHO })
			readScreen(t, tty, "echo is off")
			next()
			_, _ = io.ReadAll(tty) // to its end: EIO
			require.NoError(t, cmd.Wait())
			after, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
			require.NoError(t, err)
			before.Lflag &^= unix.ECHO // another process has turned it off, and it stays so, as without us
			require.Equal(t, before, after)
		})
	}
}

// ttyName returns the path of the terminal to which ours is the other side.
func ttyName(t *testing.T, ours *os.File) string {
	t.Helper()
	n, err := unix.IoctlGetUint32(int(ours.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	return "/dev/pts/" + strconv.Itoa(int(n))
}

// A program that types at once, before the program that it drives has started, or that changes modes
// and types at any moment meanwhile, gets what it would get without a supervisor.
func TestDriverIsQuick(t *testing.T) {
	for _, kind := range kinds {
		for round := range 10 {
			t.Run(fmt.Sprint(kind.name, ", ", round), func(t *testing.T) {
				t.Parallel()
				cmd := osexec.Command(os.Args[0])
				cmd.Args = []string{os.Args[0], "role", "on-screen", "tac"}
				tty, _ := screenOf(t, kind.shared, cmd)
				time.Sleep(time.Duration(round) * 2 * time.Millisecond) // the result is the same whenever it is
				setModes(t, tty, func(m *unix.Termios) { m.Oflag &^= unix.OPOST; m.Lflag &^= unix.ECHO })
				_, err := tty.WriteString("1\n2\n3\n\x04\x04")
				require.NoError(t, err)
				var shown []byte
				for range 2 { // Linux may report the end before the last bytes
					b, _ := io.ReadAll(tty) // to its end: EIO
					shown = append(shown, b...)
				}
				require.NoError(t, cmd.Wait())
				require.Equal(t, "3\n2\n1\n", string(shown))
			})
		}
	}
}
