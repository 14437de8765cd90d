package main

import (
	"io"
	"sync"
)

// phase is where the runtime is in its life; the names are those that AWS puts into its error messages.
type phase string

const (
	phaseStarted   phase = "Started"
	phaseInitError phase = "InitError"
	phaseReady     phase = "Ready"   // asked for an event and has none
	phaseRunning   phase = "Running" // has an event
	phaseResponse  phase = "InvocationResponse"
	phaseError     phase = "InvocationErrorResponse"
	phaseSent      phase = "ResponseSent"
)

// eventHead is the payload of EVENT, see FRAMES.md.
type eventHead struct {
	RequestID       string `json:"request_id"`
	DeadlineMS      int64  `json:"deadline_ms"`
	InvokedARN      string `json:"invoked_arn"`
	TraceID         string `json:"trace_id"`
	ClientContext   string `json:"client_context"`
	CognitoIdentity string `json:"cognito_identity"`
	Length          int64  `json:"length"`
}

type event struct {
	*eventHead
	body *body
}

// poll is a runtime's request for the next event, while it waits.
type poll struct {
	event chan *event // capacity 1; closed when a newer poll took its place
}

// invocations is the state of the runtime, and the event under way to it.
type invocations struct {
	mu        sync.Mutex
	phase     phase
	waiting   *poll
	pending   *event // came while no poll was connected
	current   *event
	requestID string // of the invocation in hand

	credit    creditWindow
	remaining int64 // DATA still to come; used by the reader of stdin alone
}

func newInvocations(out *frameWriter) *invocations {
	return &invocations{phase: phaseStarted, credit: creditWindow{send: func(n int) { out.credit(0, n) }}}
}

// poll registers a request for the next event. first tells that it ended the initialisation, asks that the worker has to be told.
func (c *invocations) poll() (p *poll, first, asks bool, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p = &poll{event: make(chan *event, 1)}
	switch c.phase {
	case phaseStarted, phaseSent:
		first, asks = c.phase == phaseStarted, true
		c.phase = phaseReady
	case phaseReady:
		if c.waiting != nil {
			close(c.waiting.event)
		}
	default:
		return nil, false, false, false
	}
	c.waiting = p
	c.deliver()
	return p, first, asks, true
}

// deliver hands a pending event to a waiting poll.
func (c *invocations) deliver() {
	if c.pending == nil || c.waiting == nil {
		return
	}
	c.waiting.event <- c.pending
	c.phase, c.waiting, c.pending = phaseRunning, nil, nil
}

// leave takes a poll back whose connection is gone; an event it was given waits for the next one.
func (c *invocations) leave(p *poll) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == p {
		c.waiting = nil
		return
	}
	select {
	case e, open := <-p.event:
		if open && c.phase == phaseRunning && c.current == e {
			c.phase, c.pending = phaseReady, e
			c.deliver()
		}
	default:
	}
}

// event takes the head of an event from the worker.
func (c *invocations) event(head *eventHead) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != phaseReady || c.pending != nil {
		return protocolErrorf("EVENT while the runtime is in state %s", c.phase)
	}
	if c.remaining > 0 {
		return protocolErrorf("EVENT while %d bytes of the one before are missing", c.remaining)
	}
	if head.RequestID == "" || head.Length < 0 {
		return protocolErrorf("EVENT without request_id or with a negative length")
	}
	e := &event{eventHead: head, body: newBody(&c.credit)}
	c.remaining = head.Length
	if head.Length == 0 {
		e.body.end(io.EOF)
	}
	c.current, c.pending, c.requestID = e, e, head.RequestID
	c.deliver()
	return nil
}

// data takes a part of the event's body from the worker.
func (c *invocations) data(payload []byte) error {
	if c.remaining == 0 || int64(len(payload)) > c.remaining {
		return protocolErrorf("%d bytes of DATA where %d are due", len(payload), c.remaining)
	}
	c.remaining -= int64(len(payload))
	body := c.current.body
	if err := body.push(payload); err != nil {
		return err
	}
	if c.remaining == 0 {
		body.end(io.EOF)
	}
	return nil
}

// verdict on a request that answers an invocation.
type verdict int

const (
	accepted verdict = iota
	wrongState
	wrongID
)

// answer begins a response or an error for the invocation in hand.
func (c *invocations) answer(id string, next phase) (verdict, phase) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.phase
	switch {
	case before != phaseRunning:
		return wrongState, before
	case id != c.requestID:
		return wrongID, before
	}
	c.phase = next
	return accepted, before
}

// failInit begins an initialisation error.
func (c *invocations) failInit() (verdict, phase) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.phase
	if before != phaseStarted {
		return wrongState, before
	}
	c.phase = phaseInitError
	return accepted, before
}

// answered ends what answer began.
func (c *invocations) answered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phase = phaseSent
}

func (c *invocations) state() phase {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.phase
}

func (c *invocations) initOver() bool {
	state := c.state()
	return state != phaseStarted && state != phaseInitError
}
