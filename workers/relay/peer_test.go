package main

import (
	"net"
	"os"
	"syscall"
	"testing"
)

// dial connects a socket of the family; an IPv6 one reaches an IPv4 address as Java's sockets do.
func dial(t *testing.T, family int, to *net.TCPAddr) int {
	t.Helper()
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no sockets of family %d: %v", family, err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	var address syscall.Sockaddr = &syscall.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}
	if family == syscall.AF_INET6 {
		address = &syscall.SockaddrInet6{Port: to.Port, Addr: [16]byte(to.IP.To16())}
	}
	if err := syscall.Connect(fd, address); err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestPeerUID(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, family := range []int{syscall.AF_INET, syscall.AF_INET6} {
		dial(t, family, listener.Addr().(*net.TCPAddr))
		server, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		own, peer := server.LocalAddr().(*net.TCPAddr), server.RemoteAddr().(*net.TCPAddr)
		for name, find := range map[string]func(a, b *net.TCPAddr) (int, error){"diag": diagUID, "proc": procUID} {
			if uid, err := find(peer, own); err != nil || uid != os.Getuid() {
				t.Errorf("%s, family %d: %d, %v", name, family, uid, err)
			}
			if uid, err := find(&net.TCPAddr{IP: peer.IP, Port: 1}, own); err == nil {
				t.Errorf("%s, family %d: found uid %d for a socket that is not there", name, family, uid)
			}
		}
	}
}
