package main

import (
	"errors"
	"io"
	"testing"
)

func ready(t *testing.T) (*invocations, *poll) {
	t.Helper()
	c := newInvocations(&frameWriter{out: io.Discard})
	p, first, asks, ok := c.poll()
	if !ok || !first || !asks {
		t.Fatalf("first poll: first %v, asks %v, ok %v", first, asks, ok)
	}
	return c, p
}

func TestALifeOfTwoInvocations(t *testing.T) {
	c, p := ready(t)
	for _, id := range []string{"a", "b"} {
		if err := c.event(&eventHead{RequestID: id}); err != nil {
			t.Fatal(err)
		}
		if e := <-p.event; e.RequestID != id {
			t.Fatalf("got %s", e.RequestID)
		}
		if v, _ := c.answer("other", phaseResponse); v != wrongID {
			t.Fatal("took another's answer")
		}
		if v, _ := c.answer(id, phaseResponse); v != accepted {
			t.Fatal("refused the answer")
		}
		if v, _ := c.answer(id, phaseResponse); v != wrongState {
			t.Fatal("took a second answer")
		}
		c.answered()
		var first, asks, ok bool
		if p, first, asks, ok = c.poll(); first || !asks || !ok {
			t.Fatalf("poll: first %v, asks %v, ok %v", first, asks, ok)
		}
	}
	if !c.initOver() {
		t.Fatal("initialisation not over")
	}
}

func TestAnEventWaitsForARuntimeThatLostItsConnection(t *testing.T) {
	c, p := ready(t)
	c.leave(p)
	if err := c.event(&eventHead{RequestID: "a"}); err != nil {
		t.Fatal(err)
	}
	again, _, asks, ok := c.poll()
	if !ok || asks {
		t.Fatalf("second poll: asks %v, ok %v", asks, ok)
	}
	if e := <-again.event; e.RequestID != "a" {
		t.Fatalf("got %s", e.RequestID)
	}
}

func TestAnEventThatWasGivenToALostConnectionGoesToTheNext(t *testing.T) {
	c, p := ready(t)
	if err := c.event(&eventHead{RequestID: "a"}); err != nil {
		t.Fatal(err)
	}
	c.leave(p)
	if c.state() != phaseReady {
		t.Fatalf("state %s", c.state())
	}
	again, _, _, _ := c.poll()
	if e := <-again.event; e.RequestID != "a" {
		t.Fatalf("got %s", e.RequestID)
	}
}

func TestOneInitialisationErrorAndNothingAfter(t *testing.T) {
	c := newInvocations(&frameWriter{out: io.Discard})
	if v, _ := c.failInit(); v != accepted {
		t.Fatal("refused")
	}
	if v, _ := c.failInit(); v != wrongState {
		t.Fatal("took a second one")
	}
	if _, _, _, ok := c.poll(); ok {
		t.Fatal("took a poll")
	}
	if c.initOver() {
		t.Fatal("initialisation over")
	}
}

func TestEventsOutOfTurn(t *testing.T) {
	fresh := newInvocations(&frameWriter{out: io.Discard})
	running, p := ready(t)
	_ = running.event(&eventHead{RequestID: "a", Length: 3})
	<-p.event
	unfinished, _ := ready(t)
	_ = unfinished.event(&eventHead{RequestID: "a", Length: 3})
	_, _ = unfinished.answer("a", phaseResponse)
	unfinished.answered()
	_, _, _, _ = unfinished.poll()
	for name, c := range map[string]*invocations{"fresh": fresh, "running": running, "unfinished": unfinished} {
		if err := c.event(&eventHead{RequestID: "b"}); !errors.As(err, &protocolError{}) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := unfinished.data([]byte("four")); !errors.As(err, &protocolError{}) {
		t.Errorf("more data than announced: %v", err)
	}
}
