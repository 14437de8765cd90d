package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// The numbers of FRAMES.md, which is where they are defined.
const (
	headerBytes = 9
	maxPayload  = 262144
	window      = 1048576

	kindStart       = 0x01
	kindEvent       = 0x02
	kindKill        = 0x03
	kindAPIResponse = 0x04
	kindPing        = 0x05
	kindData        = 0x10
	kindEnd         = 0x11
	kindStarted     = 0x21
	kindNext        = 0x22
	kindResponse    = 0x23
	kindError       = 0x24
	kindInitError   = 0x25
	kindLog         = 0x26
	kindExit        = 0x27
	kindAPIRequest  = 0x28
	kindCredit      = 0x29
	kindPong        = 0x2a
)

// frame is one frame as read; the payload is valid until the next one is read.
type frame struct {
	kind    byte
	stream  uint32
	payload []byte
}

// protocolError says how the worker broke the rules of FRAMES.md.
type protocolError struct{ text string }

func (e protocolError) Error() string { return "protocol error: " + e.text }

func protocolErrorf(format string, args ...any) error {
	return protocolError{fmt.Sprintf(format, args...)}
}

// frameReader takes frames off a stream, one buffer for all of them.
type frameReader struct {
	in   *bufio.Reader
	head [headerBytes]byte
	body []byte
}

func newFrameReader(in io.Reader) *frameReader {
	return &frameReader{in: bufio.NewReaderSize(in, 64<<10)}
}

// next answers io.EOF at the end between two frames, and a protocolError for anything that is no frame.
func (r *frameReader) next() (frame, error) {
	if err := r.fill(r.head[:4], true); err != nil {
		return frame{}, err
	}
	length := binary.BigEndian.Uint32(r.head[:4])
	if length < headerBytes-4 {
		return frame{}, protocolErrorf("a frame of length %d", length)
	}
	if err := r.fill(r.head[4:], false); err != nil {
		return frame{}, err
	}
	size := int(length - (headerBytes - 4))
	if size > maxPayload {
		return frame{}, protocolErrorf("a payload of %d bytes, over %d", size, maxPayload)
	}
	if cap(r.body) < size {
		r.body = make([]byte, size)
	}
	payload := r.body[:size]
	if err := r.fill(payload, false); err != nil {
		return frame{}, err
	}
	return frame{r.head[4], binary.BigEndian.Uint32(r.head[5:9]), payload}, nil
}

// fill reads all of buf; the input may end before its first byte only where a frame begins.
func (r *frameReader) fill(buf []byte, begins bool) error {
	n, err := io.ReadFull(r.in, buf)
	if errors.Is(err, io.ErrUnexpectedEOF) || (errors.Is(err, io.EOF) && (n > 0 || !begins)) {
		return protocolErrorf("the input ends inside a frame")
	}
	return err
}

// putHeader fills the first headerBytes of buf for a payload of size bytes.
func putHeader(buf []byte, kind byte, stream uint32, size int) {
	binary.BigEndian.PutUint32(buf, uint32(size+headerBytes-4))
	buf[4] = kind
	binary.BigEndian.PutUint32(buf[5:], stream)
}

func appendFrame(buf []byte, kind byte, stream uint32, payload []byte) []byte {
	at := len(buf)
	buf = append(buf, make([]byte, headerBytes)...)
	putHeader(buf[at:], kind, stream, len(payload))
	return append(buf, payload...)
}

// frameWriter puts whole frames on a stream, one caller at a time.
type frameWriter struct {
	mu     sync.Mutex
	out    io.Writer
	broken func(error)
}

// moveTo has everything from here on go out another way.
func (w *frameWriter) moveTo(out io.Writer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = out
}

// write sends buf, which holds one or more whole frames, in one go.
func (w *frameWriter) write(buf []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.out.Write(buf); err != nil {
		w.broken(err)
	}
}

func (w *frameWriter) send(kind byte, stream uint32, payload []byte) {
	w.write(appendFrame(make([]byte, 0, headerBytes+len(payload)), kind, stream, payload))
}

func (w *frameWriter) credit(stream uint32, taken int) {
	var payload [4]byte
	binary.BigEndian.PutUint32(payload[:], uint32(taken))
	w.send(kindCredit, stream, payload[:])
}
