package main

import (
	"os"
	"sync"
	"syscall"
	"unsafe"
)

const logChunk = 64 << 10

// logPump forwards what the runtime writes to the one pipe that is both its stdout and its stderr.
type logPump struct {
	out  *frameWriter
	pipe *os.File
	fd   int

	mu  sync.Mutex // held from reading to sending, so whoever holds it next knows that LOG is out
	buf []byte
}

// newLogPump answers the pump and the pipe's writing end for the runtime.
func newLogPump(out *frameWriter) (*logPump, int, error) {
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC); err != nil {
		return nil, -1, err
	}
	if err := syscall.SetNonblock(ends[0], true); err != nil {
		return nil, -1, err
	}
	pipe := os.NewFile(uintptr(ends[0]), "log")
	return &logPump{out: out, pipe: pipe, fd: ends[0], buf: make([]byte, headerBytes+logChunk)}, ends[1], nil
}

// run forwards until every writing end is closed.
func (l *logPump) run() {
	raw, err := l.pipe.SyscallConn()
	if err != nil {
		return
	}
	for open := true; open; {
		err := raw.Read(func(uintptr) bool {
			n, err := l.forward(logChunk)
			open = n > 0
			return err != syscall.EAGAIN
		})
		if err != nil {
			return
		}
	}
}

// forward reads once and sends what it got.
func (l *logPump) forward(limit int) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.readOnce(limit)
	if n > 0 {
		l.out.write(l.buf[:headerBytes+n])
	}
	return n, err
}

func (l *logPump) readOnce(limit int) (int, error) {
	for {
		n, err := syscall.Read(l.fd, l.buf[headerBytes:headerBytes+min(limit, logChunk)])
		if err == syscall.EINTR {
			continue
		}
		if n > 0 {
			putHeader(l.buf, kindLog, 0, n)
		}
		return n, err
	}
}

// drain forwards what is in the pipe now, and no more than that: a process that writes for ever holds up nobody.
func (l *logPump) drain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting := int32(0)
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(l.fd), syscall.TIOCINQ, uintptr(unsafe.Pointer(&waiting)))
	if errno != 0 {
		return
	}
	for waiting > 0 {
		n, _ := l.readOnce(int(waiting))
		if n <= 0 {
			return
		}
		l.out.write(l.buf[:headerBytes+n])
		waiting -= int32(n)
	}
}
