package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	prSetDumpable       = 4
	prSetChildSubreaper = 36
	prSetNoNewPrivs     = 38
	prGetNoNewPrivs     = 39

	sysCloseRange     = 436
	closeRangeCloexec = 4

	rlimitNproc = 6
	openFiles   = 1024 // as on AWS
)

// options are the command line of the first stage: paths only, since everybody can read a command line.
type options struct {
	privateTmp string
	keep       []string
}

func parseArguments(args []string) (options, error) {
	var o options
	for len(args) > 0 {
		if len(args) < 2 || !filepath.IsAbs(args[1]) {
			return o, fmt.Errorf("%s wants an absolute path", args[0])
		}
		switch args[0] {
		case "--private-tmp":
			o.privateTmp = args[1]
		case "--keep":
			o.keep = append(o.keep, args[1])
		default:
			return o, fmt.Errorf("unknown argument %s", args[0])
		}
		args = args[2:]
	}
	return o, nil
}

// prepare is the first stage. What it sets holds for the thread that executes the second one, and so for all of it.
func prepare(o options) error {
	confined := noNewPrivs()
	if err := prctl(prSetNoNewPrivs, 1); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	_ = setLimit(syscall.RLIMIT_NOFILE, openFiles)
	_ = setLimit(syscall.RLIMIT_CORE, 0)
	tmp := ""
	if o.privateTmp != "" {
		tmp = "on"
		if err := hideTmp(o.privateTmp, o.keep); err != nil {
			tmp = err.Error()
		}
	}
	if err := closeInherited(); err != nil {
		return err
	}
	if confined && tmp == "" {
		supervise(tmp) // nothing here holds for one thread only
		return nil
	}
	err := syscall.Exec("/proc/self/exe", []string{"everwarm-relay", flagSupervise, tmp}, os.Environ())
	return fmt.Errorf("second stage: %w", err)
}

// noNewPrivs tells whether this was set for all threads beforehand, as engines do.
func noNewPrivs() bool {
	set, _, errno := syscall.Syscall6(syscall.SYS_PRCTL, prGetNoNewPrivs, 0, 0, 0, 0, 0)
	return errno == 0 && set == 1
}

func prctl(option, value uintptr) error {
	if _, _, errno := syscall.Syscall6(syscall.SYS_PRCTL, option, value, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// setLimit lowers the soft and the hard limit; it never raises one.
func setLimit(resource int, value uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(resource, &limit); err != nil {
		return err
	}
	value = min(value, limit.Max)
	return syscall.Setrlimit(resource, &syscall.Rlimit{Cur: value, Max: value})
}

// closeInherited has every descriptor but 0, 1 and 2 closed by the coming exec.
func closeInherited() error {
	_, _, errno := syscall.Syscall(sysCloseRange, 3, uintptr(^uint32(0)), closeRangeCloexec)
	if errno == 0 {
		return nil
	}
	names, err := readNames("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, name := range names {
		if fd, err := strconv.Atoi(name); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

// hideTmp gives this process and its descendants a file system view of their own in which dir is /tmp, /var/tmp and /dev/shm.
func hideTmp(dir string, keep []string) error {
	places := []string{"/tmp", "/var/tmp", "/dev/shm"}
	if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	// Opened in the new view, since only its own mounts can be bound in it, and before they are hidden.
	kept := openBelow(keep, places)
	source, err := syscall.Open(dir, oPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	for _, place := range places {
		if info, err := os.Lstat(place); err != nil || !info.IsDir() {
			continue
		}
		if err := hidePlace(place, source, kept); err != nil {
			return err
		}
	}
	for path, fd := range kept {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		if err := bind(fd, path); err != nil {
			return err
		}
	}
	return nil
}

// hidePlace binds the private directory over a place. One that has kept paths gets an empty file system instead, which
// only root can write: functions empty their /tmp, and must not come upon these paths when they do. /tmp itself has to
// be theirs in any case.
func hidePlace(place string, source int, kept map[string]int) error {
	for path := range kept {
		if place != "/tmp" && strings.HasPrefix(path, place+"/") {
			if err := syscall.Mount("tmpfs", place, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "size=64k,mode=0755"); err != nil {
				return fmt.Errorf("tmpfs on %s: %w", place, err)
			}
			return nil
		}
	}
	return bind(source, place)
}

const oPath = 0x200000 // O_PATH of x86_64 and arm64

// openBelow opens the paths that are about to be hidden.
func openBelow(paths, places []string) map[string]int {
	opened := map[string]int{}
	for _, path := range paths {
		path = filepath.Clean(path)
		for _, place := range places {
			if !strings.HasPrefix(path, place+"/") {
				continue
			}
			if fd, err := syscall.Open(path, oPath|syscall.O_CLOEXEC, 0); err == nil {
				opened[path] = fd
			}
		}
	}
	return opened
}

func bind(source int, target string) error {
	if err := syscall.Mount(fmt.Sprintf("/proc/self/fd/%d", source), target, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("bind over %s: %w", target, err)
	}
	return nil
}
