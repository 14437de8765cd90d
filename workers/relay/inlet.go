package main

import (
	"errors"
	"io"
	"sync"
)

var errAborted = errors.New("the worker broke the body off")

// account is what a stream's window has left: DATA that came and for which no credit went back yet.
type account struct {
	send func(taken int)

	mu   sync.Mutex
	open int // came, no credit given
	due  int // the part of open that was taken
}

func (a *account) came(n int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open+n > window {
		return protocolErrorf("more than %d bytes of DATA without credit", window)
	}
	a.open += n
	return nil
}

// taken gives credit, but not for every few bytes: the window is large enough to wait until a quarter is due.
func (a *account) taken(n int) {
	a.mu.Lock()
	a.due += n
	credit := 0
	if a.due >= window/4 {
		credit, a.due = a.due, 0
		a.open -= credit
	}
	a.mu.Unlock()
	if credit > 0 {
		a.send(credit)
	}
}

// inlet is a body on its way from the worker to a connection: the reader of stdin pushes, a handler takes. It holds at
// most a window of bytes, and pushing never blocks, so a connection that does not read stalls no other stream.
type inlet struct {
	credit *account

	mu      sync.Mutex
	change  sync.Cond
	full    []byte // pushed and not yet taken
	lent    []byte // what the last take returned, swapped back in at the next
	ended   error  // io.EOF once complete
	dropped bool   // nobody will take
}

func newInlet(credit *account) *inlet {
	in := &inlet{credit: credit}
	in.change.L = &in.mu
	return in
}

// push copies p in.
func (in *inlet) push(p []byte) error {
	if err := in.credit.came(len(p)); err != nil {
		return err
	}
	in.mu.Lock()
	dropped := in.dropped
	if !dropped {
		in.full = append(in.full, p...)
		in.change.Signal()
	}
	in.mu.Unlock()
	if dropped {
		in.credit.taken(len(p))
	}
	return nil
}

// end marks the body complete with io.EOF, or broken off with another error.
func (in *inlet) end(reason error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.ended == nil {
		in.ended = reason
	}
	in.change.Signal()
}

// take waits for bytes and lends them until the next take.
func (in *inlet) take() ([]byte, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if n := len(in.lent); n > 0 {
		in.lent = in.lent[:0]
		in.mu.Unlock()
		in.credit.taken(n)
		in.mu.Lock()
	}
	for len(in.full) == 0 && in.ended == nil && !in.dropped {
		in.change.Wait()
	}
	if in.dropped {
		return nil, errAborted
	}
	if len(in.full) == 0 {
		return nil, in.ended
	}
	in.full, in.lent = in.lent, in.full
	return in.lent, nil
}

// drop is for when nobody will take what is to come: it is thrown away as it arrives.
func (in *inlet) drop() {
	in.mu.Lock()
	rest := len(in.full) + len(in.lent)
	in.dropped = true
	in.full, in.lent = nil, nil
	in.change.Signal()
	in.mu.Unlock()
	in.credit.taken(rest)
}

// copyTo writes the whole body to out.
func (in *inlet) copyTo(out io.Writer) error {
	for {
		part, err := in.take()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			_, err = out.Write(part)
		}
		if err != nil {
			in.drop()
			return err
		}
	}
}
