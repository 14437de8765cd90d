package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	killLimit = 10 * time.Second
	lastWords = 2 * time.Second // for what is under way to the worker once the runtime has ended
)

// relay is one environment: the worker on stdin and stdout, the runtime on the Runtime API, and its process tree.
type relay struct {
	out     *frameWriter
	tree    *tree
	memory  *memoryGauge
	disk    *diskGauge
	logs    *logPump
	cfg     *startConfig
	calls   *invocations
	proxy   *proxy
	busy    busyConnections
	spawned time.Time
	killed  sync.Once
	silent  atomic.Bool // abandon has the last word, which is none
}

func newRelay(out io.Writer) *relay {
	r := &relay{tree: newTree(), busy: busyConnections{busy: map[net.Conn]struct{}{}}}
	r.out = &frameWriter{out: out, broken: func(error) { go r.abandon(0, nil) }}
	return r
}

// start runs on the main thread and returns when the runtime runs; the runtime dies with that thread.
func (r *relay) start(payload []byte, privateTmp string) error {
	cfg, err := parseStart(payload)
	if err != nil {
		return err
	}
	r.cfg = cfg
	if uid := cfg.runtimeUID(); uid != os.Geteuid() {
		r.tree.ownUID = uid
	}
	r.memory = &memoryGauge{tree: r.tree, cgroups: cfg.MemoryCgroup, over: r.kill, wake: make(chan struct{}, 1)}
	r.disk = &diskGauge{dir: cfg.Tmp, limit: cfg.TmpMB << 20, over: r.kill}
	r.memory.also = r.disk.sample
	r.memory.killsBefore = r.memory.cgroupKills()
	if len(cfg.MemoryCgroup) == 0 {
		r.memory.limitKB = cfg.MemoryMB << 10
	}
	r.calls = newInvocations(r.out)
	r.proxy = newProxy(r.out, cfg.API, cfg.APILimit)
	r.useWorkerSocket()
	listener, err := net.Listen("tcp4", cfg.RuntimeAPI)
	if err != nil {
		r.failStart(err)
		return nil
	}
	address := listener.Addr().String()
	if err := r.spawn(address); err != nil {
		r.failStart(err)
		return nil
	}
	r.out.send(kindStarted, 0, encode(map[string]any{
		"pid": r.tree.pid, "runtime_api": address, "private_tmp": privateTmp,
	}))
	if cfg.CheckPeerUID {
		listener = &peerListener{Listener: listener, uid: cfg.runtimeUID()}
	}
	server := &http.Server{Handler: r, MaxHeaderBytes: 64 << 10, ErrorLog: quiet, ConnState: r.busy.change}
	go func() { _ = server.Serve(listener) }()
	go r.supervise()
	go r.memory.run()
	r.memory.setBusy(true)
	return nil
}

// useWorkerSocket connects to the worker's own socket, where there is one: that costs half of what the engine's stream does, which
// stays open for frames and to tell of the worker's end. Nobody else can connect: the worker takes one connection, and
// the runtime does not run yet.
func (r *relay) useWorkerSocket() {
	if r.cfg.WorkerSocket == "" {
		return
	}
	connection, err := net.Dial("unix", r.cfg.WorkerSocket)
	if err != nil {
		return // the engine's stream does it
	}
	r.out.moveTo(connection)
	go r.read(newFrameReader(connection))
}

func (r *relay) spawn(address string) error {
	logs, end, err := newLogPump(r.out)
	if err != nil {
		return err
	}
	defer syscall.Close(end)
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	sys := r.cfg.attributes()
	joinLater, closeCgroup := r.joinCgroups(sys)
	defer closeCgroup()
	if r.cfg.ProcessLimit > 0 {
		_ = setLimit(rlimitNproc, r.cfg.ProcessLimit)
	}
	if err := makeTmp(r.cfg.Tmp); err != nil {
		return err
	}
	r.logs = logs
	r.spawned = time.Now()
	argv, err := r.cfg.command()
	if err != nil {
		return err
	}
	err = r.tree.spawn(argv, &syscall.ProcAttr{
		Dir: r.cfg.Cwd, Env: r.cfg.environment(address), Files: []uintptr{null.Fd(), uintptr(end), uintptr(end)}, Sys: sys,
	})
	if err != nil {
		return fmt.Errorf("%s: %w", argv[0], err)
	}
	pid := strconv.Itoa(r.tree.pid)
	for _, dir := range joinLater {
		if err := os.WriteFile(dir+"/cgroup.procs", []byte(pid), 0); err != nil {
			diagnose("the runtime does not join its cgroup: %v", err)
		}
	}
	// The kernel, when it has to choose, takes the function before the worker and the relay.
	_ = os.WriteFile("/proc/"+pid+"/oom_score_adj", []byte("500"), 0)
	r.memory.status, _ = os.Open("/proc/" + pid + "/status")
	go logs.run()
	return nil
}

// joinCgroups has the runtime born in a cgroup of version 2 or of the relay's own, and answers those that can only be joined
// afterwards.
func (r *relay) joinCgroups(sys *syscall.SysProcAttr) (later []string, done func()) {
	done = func() {}
	for _, dir := range r.cfg.MemoryCgroup {
		member, known := isMember(dir)
		if member || !known {
			continue // the runtime is born there, or it is a directory of the other version of cgroups
		}
		_, err := os.Stat(dir + "/cgroup.controllers")
		group, openErr := os.Open(dir)
		if err != nil || openErr != nil || sys.UseCgroupFD {
			later = append(later, dir)
			continue
		}
		sys.UseCgroupFD, sys.CgroupFD = true, int(group.Fd())
		done = func() { group.Close() }
	}
	return later, done
}

// isMember tells whether the relay itself was put into a cgroup, and whether the directory is one.
func isMember(dir string) (member, known bool) {
	text, err := os.ReadFile(dir + "/cgroup.procs")
	if err != nil {
		return false, false
	}
	return slices.Contains(strings.Fields(string(text)), strconv.Itoa(os.Getpid())), true
}

// failStart reports a runtime that could not be started, and ends.
func (r *relay) failStart(err error) {
	r.out.send(kindExit, 0, encode(exitReport{Error: err.Error()}))
	os.Exit(0)
}

// exitReport is the payload of EXIT.
type exitReport struct {
	Code     *int   `json:"code"`
	Signal   *int   `json:"signal"`
	InitOver bool   `json:"init_over"`
	OOM      bool   `json:"oom"`
	DiskFull bool   `json:"disk_full"`
	MemoryKB int64  `json:"memory_kb"`
	Error    string `json:"error"`
}

// supervise waits for the runtime's end, takes the rest of the tree with it, and has the last word.
func (r *relay) supervise() {
	<-r.tree.over
	r.memory.setBusy(false)
	r.tree.kill(killLimit)
	if r.silent.Load() {
		return
	}
	r.waitForConnections()
	r.logs.drain()
	report := exitReport{InitOver: r.calls.initOver(), MemoryKB: r.memory.peak.Load()}
	status := r.tree.status
	if status.Signaled() {
		number := int(status.Signal())
		report.Signal = &number
		report.DiskFull = r.disk.full.Load()
		report.OOM = r.memory.oom.Load() || (status.Signal() == syscall.SIGKILL && r.memory.cgroupKilled())
	} else {
		code := status.ExitStatus()
		report.Code = &code
	}
	r.out.send(kindExit, 0, encode(report))
	os.Exit(0)
}

// waitForConnections lets what the dead runtime left in its sockets be read. It has closed them, so this ends by itself.
func (r *relay) waitForConnections() {
	if r.calls.state() != phaseReady {
		time.Sleep(2 * time.Millisecond) // a request may not have been noticed yet
	}
	for deadline := time.Now().Add(lastWords); r.busy.any() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

// busyConnections are those that are new or have a request under way.
type busyConnections struct {
	mu   sync.Mutex
	busy map[net.Conn]struct{}
}

func (b *busyConnections) change(conn net.Conn, state http.ConnState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if state == http.StateNew || state == http.StateActive {
		b.busy[conn] = struct{}{}
	} else {
		delete(b.busy, conn)
	}
}

func (b *busyConnections) any() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.busy) > 0
}

// kill ends the tree; supervise reports it.
func (r *relay) kill() {
	r.killed.Do(func() { go r.tree.kill(killLimit) })
}

// abandon ends the tree and the relay without a word to the worker, which is gone or broke the protocol.
func (r *relay) abandon(code int, reason error) {
	if r.silent.Swap(true) {
		return
	}
	if reason != nil {
		diagnose("%v", reason)
	}
	r.tree.kill(killLimit)
	os.Exit(code)
}

// terminate answers SIGTERM: as KILL, but it does not wait for a worker that no longer reads.
func (r *relay) terminate() {
	if !r.tree.spawned() {
		r.abandon(0, nil)
	}
	time.AfterFunc(lastWords, func() { r.abandon(0, nil) })
	r.kill()
}

// read serves the worker's frames until there are no more; the relay ends with it.
func (r *relay) read(frames *frameReader) {
	for {
		f, err := frames.next()
		if err == nil {
			err = r.handle(f)
		}
		if errors.Is(err, io.EOF) {
			r.abandon(0, nil)
			return
		}
		if err != nil {
			r.abandon(exitProtocol, err)
			return
		}
	}
}

func (r *relay) handle(f frame) error {
	switch f.kind {
	case kindEvent:
		return r.handleEvent(f)
	case kindData:
		if f.stream == 0 {
			return r.calls.data(f.payload)
		}
		return r.proxy.data(f)
	case kindEnd, kindAPIResponse:
		return r.proxy.handle(f)
	case kindKill:
		r.kill()
		return nil
	case kindPing:
		r.out.send(kindPong, 0, nil)
		return nil
	}
	return protocolErrorf("a frame of type 0x%02x", f.kind)
}

func (r *relay) handleEvent(f frame) error {
	head := &eventHead{}
	if err := json.Unmarshal(f.payload, head); err != nil {
		return protocolErrorf("EVENT is not what it should be: %v", err)
	}
	if err := r.calls.event(head); err != nil {
		return err
	}
	r.memory.setBusy(true)
	return nil
}

// ServeHTTP splits what the runtime asks for from what the function asks the Lambda API.
func (r *relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	path := req.URL.Path
	switch {
	case strings.HasPrefix(path, runtimePrefix):
		r.serveRuntime(w, req, path[len(runtimePrefix):])
	case path == "/2018-06-01/ping":
		_, _ = io.WriteString(w, "pong")
	case hasAnyPrefix(path, "/2018-06-01/", "/2020-01-01/", "/2020-08-15/", "/2022-07-01/"):
		http.NotFound(w, req)
	default:
		r.proxy.serve(w, req)
	}
}

func hasAnyPrefix(path string, prefixes ...string) bool {
	for _, prefix := range prefixes {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}

func encode(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil { // only for types that JSON cannot hold; none is sent
		return []byte("{}")
	}
	return text
}

func diagnose(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "everwarm-relay: "+format+"\n", args...)
}
