package main

import (
	"errors"
	"io"
	"sync"
)

var errAborted = errors.New("the worker broke the body off")

// creditWindow is what a stream's window has left: DATA that came and for which no credit went back yet.
type creditWindow struct {
	send func(taken int)

	mu   sync.Mutex
	open int // came, no credit given
	due  int // the part of open that was taken
}

func (w *creditWindow) came(n int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open+n > window {
		return protocolErrorf("more than %d bytes of DATA without credit", window)
	}
	w.open += n
	return nil
}

// taken gives credit, but not for every few bytes: the window is large enough to wait until a quarter is due.
func (w *creditWindow) taken(n int) {
	w.mu.Lock()
	w.due += n
	credit := 0
	if w.due >= window/4 {
		credit, w.due = w.due, 0
		w.open -= credit
	}
	w.mu.Unlock()
	if credit > 0 {
		w.send(credit)
	}
}

// body is a body on its way from the worker to a connection: the reader of stdin pushes, a handler takes. It holds at
// most a window of bytes, and pushing never blocks, so a connection that does not read stalls no other stream.
type body struct {
	credit *creditWindow

	mu      sync.Mutex
	change  sync.Cond
	full    []byte // pushed and not yet taken
	lent    []byte // what the last take returned, swapped back in at the next
	ended   error  // io.EOF once complete
	dropped bool   // nobody will take
}

func newBody(credit *creditWindow) *body {
	b := &body{credit: credit}
	b.change.L = &b.mu
	return b
}

// push copies p in.
func (b *body) push(p []byte) error {
	if err := b.credit.came(len(p)); err != nil {
		return err
	}
	b.mu.Lock()
	dropped := b.dropped
	if !dropped {
		b.full = append(b.full, p...)
		b.change.Signal()
	}
	b.mu.Unlock()
	if dropped {
		b.credit.taken(len(p))
	}
	return nil
}

// end marks the body complete with io.EOF, or broken off with another error.
func (b *body) end(reason error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended == nil {
		b.ended = reason
	}
	b.change.Signal()
}

// take waits for bytes and lends them until the next take.
func (b *body) take() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.lent); n > 0 {
		b.lent = b.lent[:0]
		b.mu.Unlock()
		b.credit.taken(n)
		b.mu.Lock()
	}
	for len(b.full) == 0 && b.ended == nil && !b.dropped {
		b.change.Wait()
	}
	if b.dropped {
		return nil, errAborted
	}
	if len(b.full) == 0 {
		return nil, b.ended
	}
	b.full, b.lent = b.lent, b.full
	return b.lent, nil
}

// drop is for when nobody will take what is to come: it is thrown away as it arrives.
func (b *body) drop() {
	b.mu.Lock()
	rest := len(b.full) + len(b.lent)
	b.dropped = true
	b.full, b.lent = nil, nil
	b.change.Signal()
	b.mu.Unlock()
	b.credit.taken(rest)
}

// copyTo writes the whole body to out.
func (b *body) copyTo(out io.Writer) error {
	for {
		part, err := b.take()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			_, err = out.Write(part)
		}
		if err != nil {
			b.drop()
			return err
		}
	}
}
