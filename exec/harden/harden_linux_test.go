package harden_test

import (
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"inject/exec/harden"
)

// role in the environment makes this binary the process that is looked at.
const role = "INJECT_TEST_HARDEN"

func TestMain(m *testing.M) {
	if os.Getenv(role) == "" {
		os.Exit(m.Run())
	}
	if err := ordinary(); err != nil {
		panic(err)
	}
	if os.Getenv(role) == "hardened" {
		harden.Process(func(msg string, args ...any) { panic(fmt.Sprint(msg, args)) })
	}
	fmt.Println("ready")
	select {} // until the signal that would write a core dump
}

// ordinary makes this process one of an ordinary user that may be dumped.
func ordinary() error {
	var err error
	if os.Getuid() == 0 {
		err = syscall.Setuid(65534)
	}
	var limit unix.Rlimit
	err = errors.Join(err, unix.Getrlimit(unix.RLIMIT_CORE, &limit))
	limit.Cur = limit.Max
	return errors.Join(err, unix.Setrlimit(unix.RLIMIT_CORE, &limit), unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
}

// The kernel grants the files of /proc to their owner: to the user of an ordinary process, and to
// root of one that is hardened.
func TestProcess(t *testing.T) {
	for _, name := range []string{"ordinary", "hardened"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.Chmod(dir, 0o777)) // a core dump could be written here
			cmd := osexec.Command(os.Args[0])
			cmd.Env, cmd.Dir = append(os.Environ(), role+"="+name), dir
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			_, err = fmt.Fscanln(out, new(string))
			require.NoError(t, err)

			for _, file := range []string{"environ", "mem", "maps", "fd"} {
				var stat unix.Stat_t
				require.NoError(t, unix.Stat(fmt.Sprintf("/proc/%d/%s", cmd.Process.Pid, file), &stat))
				require.Equal(t, name == "ordinary", stat.Uid != 0, file)
			}
			require.NoError(t, cmd.Process.Signal(unix.SIGABRT))
			require.Error(t, cmd.Wait())
			cores, err := filepath.Glob(filepath.Join(dir, "core*"))
			require.NoError(t, err)
			status := cmd.ProcessState.Sys().(syscall.WaitStatus) //nolint:errcheck,forcetypeassert // as on Linux
			if name == "hardened" {
				require.False(t, status.CoreDump())
				require.Empty(t, cores)
			}
		})
	}
}
