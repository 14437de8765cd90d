package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const memorySampleEvery = 100 * time.Millisecond

// memoryGauge keeps the peak of the environment's memory in KB, and ends the tree when it is over its limit.
type memoryGauge struct {
	tree    *tree
	limitKB int // 0: nobody to enforce, or a cgroup does it
	cgroups []string
	over    func() // called once when the limit is passed
	also    func() // looks at something else at the same times

	killsBefore int // in the cgroups, which may be older than this relay

	peak   atomic.Int64
	oom    atomic.Bool
	busy   atomic.Bool // the runtime starts or runs an invocation
	wake   chan struct{}
	status *os.File // /proc/<pid>/status of the runtime
	mu     sync.Mutex
	buf    [4096]byte
}

func (m *memoryGauge) raise(kb int) {
	for {
		old := m.peak.Load()
		if int64(kb) <= old || m.peak.CompareAndSwap(old, int64(kb)) {
			return
		}
	}
}

func (m *memoryGauge) setBusy(busy bool) {
	m.busy.Store(busy)
	if busy {
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}

// run samples while the runtime is busy, and sleeps without a timer while it is not.
func (m *memoryGauge) run() {
	for range m.wake {
		time.Sleep(memorySampleEvery)
		for m.busy.Load() {
			m.sample()
			m.also()
			time.Sleep(memorySampleEvery)
		}
	}
}

func (m *memoryGauge) sample() {
	kb := m.tree.residentKB()
	m.raise(kb)
	if m.limitKB > 0 && kb > m.limitKB && m.oom.CompareAndSwap(false, true) {
		m.over()
	}
}

// mark reads the runtime's own peak from the kernel, which also shows what came and went between two samples.
func (m *memoryGauge) mark() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.status != nil {
		// Not ReadAt, which asks a second time for what is not there.
		n, _ := syscall.Pread(int(m.status.Fd()), m.buf[:], 0)
		if _, rest, ok := bytes.Cut(m.buf[:max(n, 0)], []byte("\nVmHWM:")); ok {
			line, _, _ := bytes.Cut(rest, []byte("\n"))
			m.raise(firstNumber(string(line)))
		}
	}
	return m.peak.Load()
}

// cgroupKilled reports whether the kernel has killed for memory in one of the runtime's cgroups since this relay began.
func (m *memoryGauge) cgroupKilled() bool {
	return m.cgroupKills() > m.killsBefore
}

// cgroupKills counts the kernel's kills for memory in the runtime's cgroups (version 2, then 1).
func (m *memoryGauge) cgroupKills() int {
	kills := 0
	for _, dir := range m.cgroups {
		for _, name := range []string{"memory.events", "memory.oom_control"} {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				continue
			}
			for _, line := range strings.Split(string(text), "\n") {
				key, value, _ := strings.Cut(line, " ")
				if count, err := strconv.Atoi(value); key == "oom_kill" && err == nil {
					kills += count
				}
			}
		}
	}
	return kills
}
