package main

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

type failing struct{ after int }

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestABodyCarriesMoreThanAWindow(t *testing.T) {
	credits := make(chan int, 100)
	b := newBody(&creditWindow{send: func(n int) { credits <- n }})
	want := bytes.Repeat([]byte("0123456789abcdef"), 3*window/16)
	go func() {
		room := window
		for rest := want; len(rest) > 0; {
			for room == 0 {
				room += <-credits
			}
			n := min(len(rest), room, maxPayload)
			if err := b.push(rest[:n]); err != nil {
				t.Error(err)
				return
			}
			rest, room = rest[n:], room-n
		}
		b.end(io.EOF)
	}()
	var got bytes.Buffer
	if err := b.copyTo(&got); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Fatalf("%d bytes, %v", got.Len(), err)
	}
}

func TestABodyRefusesWhatExceedsTheWindow(t *testing.T) {
	b := newBody(&creditWindow{send: func(int) {}})
	part := make([]byte, maxPayload)
	for range window / maxPayload {
		if err := b.push(part); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.push([]byte("x")); !errors.As(err, &protocolError{}) {
		t.Fatalf("got %v", err)
	}
}

func TestADroppedBodyGivesCreditForEverything(t *testing.T) {
	credit := 0
	b := newBody(&creditWindow{send: func(n int) { credit += n }})
	part := make([]byte, maxPayload)
	_ = b.push(part)
	_ = b.push(part)
	if err := b.copyTo(&failing{after: 10}); !errors.Is(err, io.ErrClosedPipe) {
		t.Fatalf("got %v", err)
	}
	for range 20 {
		if err := b.push(part); err != nil {
			t.Fatal(err)
		}
	}
	if credit != 22*maxPayload {
		t.Fatalf("credit for %d bytes of %d", credit, 22*maxPayload)
	}
}

func TestABrokenOffBodySaysSo(t *testing.T) {
	b := newBody(&creditWindow{send: func(int) {}})
	_ = b.push([]byte("half"))
	b.end(errAborted)
	var got bytes.Buffer
	if err := b.copyTo(&got); !errors.Is(err, errAborted) || got.String() != "half" {
		t.Fatalf("%q, %v", got.String(), err)
	}
}
