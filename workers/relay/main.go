// everwarm-relay is the first process of every environment. It speaks AWS's Runtime API to a runtime and frames
// (FRAMES.md) to a worker on its stdin and stdout, and it answers for the runtime's process tree: when it ends, for
// whatever reason, nothing of the tree is left.
//
//	everwarm-relay [--private-tmp DIR [--keep PATH]...]
//	everwarm-relay --idle
//
// --private-tmp puts DIR in the place of /tmp, /var/tmp and /dev/shm for everything in the environment, where that is
// permitted (STARTED tells); --keep leaves a PATH below these visible (keep none below /tmp where you can: it is in the
// function's own /tmp then). --idle is for containers that wait for relays to be executed in them, or lend others their
// network namespace. Exit codes: 0 after EXIT and when stdin closed,
// 2 for wrong arguments, 3 after a protocol error.
package main

import (
	"io"
	"log"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
)

const (
	exitUsage    = 2
	exitProtocol = 3

	flagIdle      = "--idle"      // stay, do nothing, and end when stdin closes
	flagSupervise = "--supervise" // the second stage; its argument is what became of --private-tmp
	flagKillUID   = "--kill-uid"  // kill all that this uid may kill; its argument is that uid, so nobody does it by accident

	killEverything = -1
)

var quiet = log.New(io.Discard, "", 0)

// Privileges and the runtime's parent-death signal belong to a thread, so main keeps to its own.
func init() { runtime.LockOSThread() }

func main() {
	args := os.Args[1:]
	if len(args) == 2 && args[0] == flagKillUID && args[1] == strconv.Itoa(os.Getuid()) {
		_ = syscall.Kill(killEverything, syscall.SIGKILL)
		return
	}
	if len(args) == 2 && args[0] == flagSupervise {
		supervise(args[1])
		return
	}
	if len(args) == 1 && args[0] == flagIdle {
		idle()
		return
	}
	options, err := parseArguments(args)
	if err == nil {
		err = prepare(options)
	}
	if err == nil {
		return
	}
	diagnose("%v", err)
	os.Exit(exitUsage)
}

// supervise is the second stage: prepared, it waits for START and serves until the end.
func supervise(privateTmp string) {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(50)
	syscall.Umask(0o022)
	// Nobody of the same uid may trace the relay or open what it holds.
	_ = prctl(prSetDumpable, 0)
	_ = prctl(prSetChildSubreaper, 1)
	_ = syscall.SetNonblock(0, true)
	_ = syscall.SetNonblock(1, true)
	r := newRelay(os.NewFile(1, "worker"))
	go r.handleSignals(catchSignals())
	frames := newFrameReader(os.NewFile(0, "worker"))
	first, err := frames.next()
	switch {
	case err == io.EOF:
		return
	case err == nil && first.kind != kindStart:
		err = protocolErrorf("the first frame has type 0x%02x, not START", first.kind)
	}
	if err == nil {
		err = r.start(first.payload, privateTmp)
	}
	if err != nil {
		r.abandon(exitProtocol, err)
	}
	go r.read(frames)
	select {} // the runtime dies with the thread that started it
}

// signals of the relay, caught before anything is started.
type signals struct {
	children chan os.Signal // one is enough: reaping takes all that have ended
	others   chan os.Signal
}

func catchSignals() signals {
	s := signals{make(chan os.Signal, 1), make(chan os.Signal, 8)}
	signal.Notify(s.children, syscall.SIGCHLD)
	// SIGPIPE is caught so that writing to a worker that is gone fails instead of killing the relay before its tree;
	// SIGINT and SIGHUP because the worker decides, not a terminal. Caught, not ignored: a runtime would inherit that.
	signal.Notify(s.others, syscall.SIGTERM, syscall.SIGPIPE, syscall.SIGINT, syscall.SIGHUP)
	return s
}

func (r *relay) handleSignals(s signals) {
	for {
		select {
		case <-s.children:
			r.tree.reap()
		case received := <-s.others:
			if received == syscall.SIGTERM {
				r.terminate()
			}
		}
	}
}
