// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// kindEnv has this binary confine itself and tell what it can do then.
const kindEnv = "KMMD_TEST_CONFINE"

func TestMain(m *testing.M) {
	if kind := os.Getenv(kindEnv); kind != "" {
		inside(kind)
		return
	}
	os.Exit(m.Run())
}

// seen is what a confined process tells of itself.
type seen struct {
	Filtered bool
	Error    string
	Threads  []string          // capabilities, no_new_privs and seccomp of each thread, as /proc has it
	Tried    map[string]string // what an attempt came to: an errno, or "done"
}

func inside(kind string) {
	var s seen
	var err error
	var more sync.WaitGroup
	more.Add(4)
	for range 4 { // threads that are there already, and stay
		go func() { runtime.LockOSThread(); more.Done(); select {} }()
	}
	more.Wait()
	switch kind {
	case "daemon":
		s.Filtered, err = Daemon()
		s.Threads = threads()
	case "command":
		s.Filtered, err = Command()
		s.Threads = threads()
	case "child":
		_ = unix.Dup2(1, 3)
		s.Filtered, err = Child(unix.SYS_DELETE_MODULE, 3)
		work()
	}
	if err != nil {
		s.Error = err.Error()
	}
	s.Tried = try()
	text, _ := json.Marshal(s)
	_, _ = unix.Write(1, text)
	os.Exit(0)
}

// work has the runtime need memory, threads and sleep.
func work() {
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			runtime.LockOSThread() // the thread ends with it: others are started
			pause := unix.NsecToTimespec(1e6)
			_ = unix.Nanosleep(&pause, nil)
			var keep [][]byte
			for range 200 {
				keep = append(keep, make([]byte, 64<<10))
			}
			runtime.KeepAlive(keep)
		})
	}
	group.Wait()
	runtime.GC()
}

func threads() (out []string) {
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, task := range tasks {
		status, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
		var fields []string
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			switch name {
			case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp":
				fields = append(fields, name+"="+strings.TrimLeft(value, "0"))
			}
		}
		out = append(out, strings.Join(fields, " "))
	}
	return out
}

// try makes calls that nobody is refused without a filter, or that fail in another way then.
func try() map[string]string {
	out := map[string]string{}
	say := func(name string, err error) {
		var errno syscall.Errno
		switch {
		case err == nil:
			out[name] = "done"
		case errors.As(err, &errno):
			out[name] = unix.ErrnoName(errno)
		default:
			out[name] = err.Error()
		}
	}
	raw := func(call uintptr, args ...uintptr) error {
		var a [3]uintptr
		copy(a[:], args)
		if _, _, errno := unix.RawSyscall(call, a[0], a[1], a[2]); errno != 0 {
			return errno
		}
		return nil
	}
	_, err := unix.Open("/", unix.O_RDONLY, 0)
	say("open", err)
	_, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	say("socket", err)
	say("pipe", unix.Pipe(make([]int, 2)))
	say("read", raw(unix.SYS_READ, 0, 0, 0))
	say("uname", unix.Uname(&unix.Utsname{}))
	say("kill", unix.Kill(os.Getpid(), 0))
	say("chdir", unix.Chdir("/"))
	say("dup", raw(unix.SYS_DUP, 1))
	say("exec", unix.Exec("/nonexistent", nil, nil))
	say("unshare", unix.Unshare(0))
	say("setns", unix.Setns(-1, 0))
	say("ptrace", raw(unix.SYS_PTRACE, 0xffff))
	say("kexec", raw(unix.SYS_KEXEC_FILE_LOAD, ^uintptr(0), ^uintptr(0)))
	say("mount", unix.Mount("", "/nonexistent", "", 0, ""))
	_, err = unix.KeyctlInt(unix.KEYCTL_SESSION_TO_PARENT, 0, 0, 0, 0)
	say("keyctl", err)
	return out
}

func run(t *testing.T, kind string) (s seen) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), kindEnv+"="+kind)
	cmd.Stdin = strings.NewReader("")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Log(string(exit.Stderr))
	}
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(out, &s), "%s", out)
	require.Empty(t, s.Error)
	return s
}

// mask is a set as /proc has it: of these, those that this process has.
func mask(t *testing.T, values ...cap.Value) string {
	t.Helper()
	var bits uint64
	for _, v := range values {
		if has, err := cap.GetProc().GetFlag(cap.Permitted, v); err == nil && has {
			bits |= 1 << v
		}
	}
	return strings.TrimLeft(fmt.Sprintf("%x", bits), "0")
}

func TestDaemon(t *testing.T) {
	s := run(t, "daemon")
	require.True(t, s.Filtered)
	require.GreaterOrEqual(t, len(s.Threads), 5)
	all := mask(t, daemonKeeps()...)
	effective := mask(t, daemonKeeps()[1:]...)
	for _, thread := range s.Threads {
		assert.Contains(t, thread, "CapInh= CapPrm="+all+" CapEff="+effective+" CapBnd=")
		assert.Contains(t, thread, "CapAmb= NoNewPrivs=1 Seccomp=2")
		if os.Getuid() == 0 && mask(t, cap.SETPCAP) != "" {
			assert.Contains(t, thread, "CapBnd="+all+" ")
		}
	}
	assert.Equal(t, map[string]string{
		"open": "done", "socket": "done", "pipe": "done", "read": "done", "uname": "done", "kill": "done", "chdir": "done", "dup": "done",
		"exec":    "ENOENT", // its child is itself
		"unshare": "EPERM", "setns": "EPERM", "ptrace": "EPERM", "kexec": "EPERM", "mount": "EPERM", "keyctl": "EPERM",
	}, s.Tried)
}

func TestCommand(t *testing.T) {
	s := run(t, "command")
	require.True(t, s.Filtered)
	for _, thread := range s.Threads {
		keeps := mask(t, commandKeeps()...)
		assert.Contains(t, thread, "CapInh= CapPrm="+keeps+" CapEff="+keeps+" CapBnd=")
		assert.Contains(t, thread, "CapAmb= NoNewPrivs=1 Seccomp=2")
	}
	assert.Equal(t, "EPERM", s.Tried["exec"], "it runs no program")
	assert.Equal(t, "done", s.Tried["open"])
}

// TestChild: a child that tries anything else is refused, and Go's runtime lives on in it.
func TestChild(t *testing.T) {
	s := run(t, "child")
	require.True(t, s.Filtered)
	require.NotEmpty(t, s.Tried)
	for call, came := range s.Tried {
		assert.Equal(t, "EPERM", came, call)
	}
}

// TestWithin: who may not call capset must have no more than it keeps already.
func TestWithin(t *testing.T) {
	set := cap.NewSet()
	require.NoError(t, set.SetFlag(cap.Permitted, true, cap.SYSLOG))
	assert.True(t, within(set, []cap.Value{cap.SYSLOG, cap.SYS_MODULE}))
	assert.False(t, within(set, []cap.Value{cap.SYS_MODULE}))
	require.NoError(t, set.SetFlag(cap.Inheritable, true, cap.SYS_ADMIN))
	assert.False(t, within(set, []cap.Value{cap.SYSLOG}))
}
