package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// peerListener accepts connections of one uid only and closes all others: every user of the host can reach loopback.
type peerListener struct {
	net.Listener
	uid int

	complained bool // once is enough: any user of the host can make this happen
}

func (l *peerListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(conn)
		if err == nil && uid == l.uid {
			return conn, nil
		}
		conn.Close()
		if err != nil && !l.complained {
			l.complained = true
			diagnose("a connection's owner is unknown: %v", err)
		}
	}
}

// peerUID answers who opened the other end of a TCP connection within this host: the kernel's socket diagnostics know,
// and where they are not built in, /proc/net/tcp.
func peerUID(conn net.Conn) (int, error) {
	local, okLocal := conn.LocalAddr().(*net.TCPAddr)
	remote, okRemote := conn.RemoteAddr().(*net.TCPAddr)
	if !okLocal || !okRemote {
		return -1, errors.New("no TCP connection")
	}
	uid, err := diagUID(remote, local)
	if err != nil {
		return procUID(remote, local)
	}
	return uid, nil
}

const (
	sockDiagByFamily = 20
	diagRequestBytes = 16 + 56 // nlmsghdr, inet_diag_req_v2
	diagUIDOffset    = 16 + 64 // in the answer: nlmsghdr, then idiag_uid of inet_diag_msg
)

// diagUID asks for exactly the socket whose own address is source (linux/inet_diag.h).
func diagUID(source, destination *net.TCPAddr) (int, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 4) // NETLINK_SOCK_DIAG
	if err != nil {
		return -1, err
	}
	defer syscall.Close(fd)
	_ = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: 1})
	if err := syscall.Sendto(fd, diagRequest(source, destination), 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return -1, err
	}
	answer := make([]byte, 4096)
	n, _, err := syscall.Recvfrom(fd, answer, 0)
	if err != nil {
		return -1, err
	}
	if n < diagUIDOffset+4 || binary.NativeEndian.Uint16(answer[4:]) != sockDiagByFamily {
		return -1, errors.New("the socket is not known to the kernel")
	}
	return int(binary.NativeEndian.Uint32(answer[diagUIDOffset:])), nil
}

func diagRequest(source, destination *net.TCPAddr) []byte {
	b := make([]byte, diagRequestBytes)
	binary.NativeEndian.PutUint32(b[0:], diagRequestBytes)
	binary.NativeEndian.PutUint16(b[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(b[6:], syscall.NLM_F_REQUEST)
	b[16], b[17] = syscall.AF_INET, syscall.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[20:], 0xffffffff) // every state
	binary.BigEndian.PutUint16(b[24:], uint16(source.Port))
	binary.BigEndian.PutUint16(b[26:], uint16(destination.Port))
	copy(b[28:], source.IP.To4())
	copy(b[44:], destination.IP.To4())
	binary.NativeEndian.PutUint64(b[64:], ^uint64(0)) // no cookie
	return b
}

// procUID finds the socket in /proc/net/tcp, or in tcp6 as an IPv4 address within IPv6 (which Java uses).
func procUID(source, destination *net.TCPAddr) (int, error) {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(text), "\n") {
			fields := strings.Fields(line)
			if len(fields) > 7 && sameEnd(fields[1], source) && sameEnd(fields[2], destination) {
				return strconv.Atoi(fields[7])
			}
		}
	}
	return -1, errors.New("the socket is in no table of the kernel")
}

// sameEnd compares an address of the kernel's tables, which print it in the host's byte order.
func sameEnd(text string, addr *net.TCPAddr) bool {
	ip := fmt.Sprintf("%08X", binary.NativeEndian.Uint32(addr.IP.To4()))
	host, port, _ := strings.Cut(text, ":")
	return strings.HasSuffix(host, ip) && port == fmt.Sprintf("%04X", addr.Port)
}
