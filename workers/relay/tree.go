package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// tree is the runtime's process and all its descendants. The relay is their subreaper: whoever loses its parent
// becomes a child of the relay, so "no child left" means "nothing of the tree left".
type tree struct {
	mu     sync.Mutex // held while a process is spawned, so that its end is not reaped before its pid is known
	pid    int
	ended  bool
	status syscall.WaitStatus
	over   chan struct{} // closed when the runtime's process has ended
	ownUID int           // the tree's uid where that is not the relay's, else -1
}

func newTree() *tree { return &tree{over: make(chan struct{}), ownUID: -1} }

func (t *tree) spawn(argv []string, attr *syscall.ProcAttr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	pid, err := syscall.ForkExec(argv[0], argv, attr)
	if err == nil {
		t.pid = pid
	}
	return err
}

func (t *tree) spawned() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pid != 0
}

// reap takes all children that have ended, and reports whether any child is left.
func (t *tree) reap() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return false
		case pid == 0:
			return true
		case pid == t.pid && !t.ended:
			t.ended, t.status = true, status
			close(t.over)
		}
	}
}

// kill sends SIGKILL to the tree until nothing of it is left, or the time is up (a process in an uninterruptible call).
func (t *tree) kill(limit time.Duration) {
	deadline := time.Now().Add(limit)
	pause := 200 * time.Microsecond
	for round := 0; t.reap() && time.Now().Before(deadline); round++ {
		t.killRound()
		if round == 3 && t.ownUID > 0 {
			t.killUID()
		}
		time.Sleep(pause)
		pause = min(2*pause, 20*time.Millisecond)
	}
}

// killRound signals every process of the tree that it sees, whole process groups first: those die at once, also when
// they fork faster than they can be listed.
func (t *tree) killRound() {
	t.mu.Lock()
	if t.pid > 1 && !t.ended { // once it was reaped its number may be another's
		_ = syscall.Kill(-t.pid, syscall.SIGKILL)
	}
	t.mu.Unlock()
	victims := t.members()
	groups := map[int]bool{}
	for _, p := range victims {
		if p.group > 1 && p.group != syscall.Getpgrp() && !groups[p.group] {
			groups[p.group] = true
			_ = syscall.Kill(-p.group, syscall.SIGKILL)
		}
	}
	for _, p := range victims {
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
}

// killUID has a process of the tree's own uid signal everything it may: one call in the kernel, which no fork outruns.
// A process, because a thread of the relay under that uid could be signalled by the tree.
func (t *tree) killUID() {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := uint32(t.ownUID)
	_, _ = syscall.ForkExec("/proc/self/exe", []string{"everwarm-relay", flagKillUID, strconv.Itoa(t.ownUID)}, &syscall.ProcAttr{
		Sys: &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: id, Gid: id}},
	})
}

type process struct {
	pid, parent, group int
	uid                int
}

// members lists the tree by /proc: the descendants of the relay, and all processes of a uid of the tree's own.
func (t *tree) members() []process {
	all := map[int]process{}
	children := map[int][]int{}
	names, _ := readNames("/proc")
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, ok := readProcess(pid); ok {
			all[pid] = p
			children[p.parent] = append(children[p.parent], pid)
		}
	}
	self := os.Getpid()
	found := map[int]bool{self: true}
	queue := []int{self}
	var list []process
	take := func(pid int) {
		if !found[pid] {
			found[pid] = true
			queue = append(queue, pid)
			list = append(list, all[pid])
		}
	}
	if t.ownUID > 0 {
		for pid, p := range all {
			if p.uid == t.ownUID {
				take(pid)
			}
		}
	}
	for len(queue) > 0 {
		pid := queue[0]
		queue = queue[1:]
		for _, child := range children[pid] {
			take(child)
		}
	}
	return list
}

func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

func readProcess(pid int) (process, bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return process{}, false
	}
	p := process{pid: pid, uid: -1}
	for _, line := range strings.Split(string(text), "\n") {
		name, value, ok := strings.Cut(line, ":\t")
		if !ok {
			continue
		}
		switch name {
		case "PPid":
			p.parent = firstNumber(value)
		case "Uid":
			p.uid = firstNumber(value)
		case "NSpgid":
			p.group = firstNumber(value)
		}
	}
	return p, true
}

func firstNumber(text string) int {
	fields := strings.Fields(text)
	if len(fields) == 0 {
		return -1
	}
	n, err := strconv.Atoi(fields[0])
	if err != nil {
		return -1
	}
	return n
}

// residentKB sums what the tree's processes hold in memory. It walks the kernel's lists of children, not all of /proc:
// it runs ten times a second on hosts with thousands of processes.
func (t *tree) residentKB() int {
	total := 0
	pending := childrenOf(os.Getpid())
	for seen := 0; len(pending) > 0 && seen < 4096; seen++ {
		pid := pending[0]
		pending = append(pending[1:], childrenOf(pid)...)
		total += residentKB(pid)
	}
	return total
}

func childrenOf(pid int) []int {
	paths, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	var children []int
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}

func residentKB(pid int) int {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.Atoi(fields[1])
	return pages * (os.Getpagesize() / 1024)
}
