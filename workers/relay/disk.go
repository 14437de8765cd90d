package main

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	diskSampleEvery = time.Second
	diskSampleShare = 20 // a walk takes at most this part of the time
)

// diskGauge ends the tree when a directory holds more than its limit. It is looked at while the runtime is busy.
type diskGauge struct {
	dir   string
	limit int64 // bytes; 0: none
	over  func()
	full  atomic.Bool
	due   time.Time
}

// sample looks when it is due; called again and again by one goroutine.
func (d *diskGauge) sample() {
	began := time.Now()
	if d.limit <= 0 || d.full.Load() || began.Before(d.due) {
		return
	}
	if usedBytes(d.dir, d.limit) > d.limit {
		d.full.Store(true)
		d.over()
	}
	d.due = time.Now().Add(max(diskSampleEvery, diskSampleShare*time.Since(began)))
}

// usedBytes is what lies in a directory, counted no further than the limit. Links are not followed.
func usedBytes(dir string, limit int64) int64 {
	total := int64(0)
	pending := []string{dir}
	for len(pending) > 0 && total <= limit {
		next := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		entries, err := os.ReadDir(next)
		if err != nil {
			continue
		}
		for _, entry := range entries {
			path := filepath.Join(next, entry.Name())
			var status syscall.Stat_t
			if syscall.Lstat(path, &status) != nil {
				continue
			}
			total += status.Blocks * 512
			if entry.IsDir() {
				pending = append(pending, path)
			}
		}
	}
	return total
}

// makeTmp has the directory for temporary files where an image has none.
func makeTmp(dir string) error {
	if dir == "" {
		return nil
	}
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, os.ModeSticky|0o777)
}
