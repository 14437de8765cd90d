package main

import (
	"os"
	"os/signal"
	"syscall"
)

// idle is the first process of a container that itself runs nothing. It repeats what it reads, which tells that the container is
// not paused, takes the exit status of whoever lost its parent, and ends, and the container with it, when stdin closes.
func idle() {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		buf := make([]byte, 256)
		for {
			n, err := os.Stdin.Read(buf)
			if err != nil {
				return
			}
			if _, err := os.Stdout.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	for {
		select {
		case <-children:
			reapOrphans()
		case <-ended:
			return
		case <-closed:
			return
		}
	}
}

func reapOrphans() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}
