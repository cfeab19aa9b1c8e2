//go:build unix

package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// serverUser is who the servers of the kind run as: themselves as packages set them
// up if root starts them, as PostgreSQL refuses root, and else whoever starts them.
func serverUser(kind string) string {
	if os.Geteuid() != 0 {
		return ""
	}
	name := map[string]string{Postgres: "postgres", MySQL: "mysql"}[kind]
	if name == "" {
		name = "redis"
	}
	if _, err := user.Lookup(name); err != nil {
		return "nobody"
	}
	return name
}

// credential is name as the kernel wants it, nil for oneself.
func credential(name string) (*syscall.Credential, error) {
	if name == "" {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func giveTo(path, name string) error {
	cred, err := credential(name)
	if err != nil || cred == nil {
		return err
	}
	return os.Chown(path, int(cred.Uid), int(cred.Gid))
}

// reachable makes dir and returns it, or a new temporary folder if one of the
// folders above keeps the user name out.
func reachable(dir, name string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if name == "" {
		return dir, nil
	}
	for at := dir; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return "", err
		}
		if info.Mode().Perm()&0o001 == 0 {
			break
		}
		if at == filepath.Dir(at) {
			return dir, nil
		}
	}
	dir, err = os.MkdirTemp("", "crumb-servers-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// start runs the node's program in a session of its own, so that it outlives this
// process and no signal of a terminal reaches it.
func (n *Node) start() error {
	cred, err := credential(n.As)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(n.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := giveTo(n.log(), n.As); err != nil {
		return err
	}
	cmd := exec.Command(n.Program, n.Args...)
	cmd.Dir = n.Dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: cred}
	if err := cmd.Start(); err != nil {
		return err
	}
	n.PID = cmd.Process.Pid
	go func() { _ = cmd.Wait() }() // so that no zombie stays
	return nil
}

// run runs a program that prepares a node, as its user and in its folder.
func (n *Node) run(ctx context.Context, program string, args ...string) error {
	cred, err := credential(n.As)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = n.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w:\n%s", program, err, out)
	}
	return nil
}

func stopSignal(kind string) syscall.Signal {
	if kind == Postgres {
		return syscall.SIGINT // does not wait for clients to leave
	}
	return syscall.SIGTERM
}

func (n *Node) signal(sig syscall.Signal) error {
	if !n.Running() {
		return nil
	}
	return ifThere(syscall.Kill(n.PID, sig))
}

func kill(pid int) error { return ifThere(syscall.Kill(pid, syscall.SIGKILL)) }

// alive reports whether a process is there, and not just its exit code.
func alive(pid int) bool {
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		_, rest, _ := strings.Cut(string(stat), ") ")
		return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
	}
	if _, missing := os.Stat("/proc/self/stat"); missing == nil {
		return false
	}
	return syscall.Kill(pid, 0) == nil
}

func ifThere(err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// Pause stops the node's processes where they are, as a machine that hangs would;
// Resume lets them go on.
func (n *Node) Pause() error { return n.signalAll(syscall.SIGSTOP) }

// Resume ends a Pause.
func (n *Node) Resume() error { return n.signalAll(syscall.SIGCONT) }

func (n *Node) signalAll(sig syscall.Signal) error {
	errs := []error{n.signal(sig)}
	for _, pid := range children(n.PID) {
		errs = append(errs, ifThere(syscall.Kill(pid, sig)))
	}
	return errors.Join(errs...)
}

// commandHolds reports whether the process runs and its command line holds text. A
// process ID may have gone to another program since it was noted.
func commandHolds(pid int, text string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if _, missing := os.Stat("/proc/self/cmdline"); missing != nil {
		line, err = exec.Command("ps", "-ww", "-o", "args=", "-p", strconv.Itoa(pid)).Output()
	}
	return err == nil && bytes.Contains(line, []byte(text))
}

// children are the processes that pid started and that still run.
func children(pid int) (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// "12 (name) S 1 …": the fourth is the parent.
		_, rest, _ := strings.Cut(string(text), ") ")
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(pid) {
			if child, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				pids = append(pids, child)
			}
		}
	}
	if len(stats) > 0 {
		return pids
	}
	out, _ := exec.Command("pgrep", "-P", strconv.Itoa(pid)).Output()
	for _, f := range strings.Fields(string(out)) {
		if child, err := strconv.Atoi(f); err == nil {
			pids = append(pids, child)
		}
	}
	return pids
}

// lock keeps out other processes that start or stop the servers of dir, until
// unlock is called.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
	return func() { f.Close() }, nil
}
