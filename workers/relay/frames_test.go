package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"regexp"
	"strconv"
	"testing"
)

func TestNumbersAreThoseOfThePage(t *testing.T) {
	page, err := os.ReadFile("FRAMES.md")
	if err != nil {
		t.Fatal(err)
	}
	ours := map[string]int{
		"HEADER_BYTES": headerBytes, "MAX_PAYLOAD": maxPayload, "WINDOW": window,
		"START": kindStart, "EVENT": kindEvent, "KILL": kindKill, "API_RESPONSE": kindAPIResponse,
		"DATA": kindData, "END": kindEnd, "STARTED": kindStarted, "NEXT": kindNext, "RESPONSE": kindResponse,
		"ERROR": kindError, "INIT_ERROR": kindInitError, "LOG": kindLog, "EXIT": kindExit,
		"API_REQUEST": kindAPIRequest, "CREDIT": kindCredit, "PING": kindPing, "PONG": kindPong,
	}
	rows := regexp.MustCompile(`(?m)^\| ([A-Z_]+) \| (0x[0-9a-f]{2}|\d+) \|`).FindAllStringSubmatch(string(page), -1)
	if len(rows) != len(ours) {
		t.Errorf("the page has %d numbers, frames.go %d", len(rows), len(ours))
	}
	for _, row := range rows {
		value, _ := strconv.ParseInt(row[2], 0, 64)
		if mine, known := ours[row[1]]; !known || int64(mine) != value {
			t.Errorf("%s is %d on the page, %d here", row[1], value, mine)
		}
	}
}

func TestFramesComeBackAsTheyWent(t *testing.T) {
	var stream []byte
	largest := bytes.Repeat([]byte("x"), maxPayload)
	stream = appendFrame(stream, kindEvent, 0, []byte("{}"))
	stream = appendFrame(stream, kindData, 1<<31, largest)
	stream = appendFrame(stream, kindKill, 0, nil)
	reader := newFrameReader(bytes.NewReader(stream))
	for _, want := range []frame{{kindEvent, 0, []byte("{}")}, {kindData, 1 << 31, largest}, {kindKill, 0, nil}} {
		got, err := reader.next()
		if err != nil || got.kind != want.kind || got.stream != want.stream || !bytes.Equal(got.payload, want.payload) {
			t.Fatalf("got %v, %v", got, err)
		}
	}
	if _, err := reader.next(); err != io.EOF {
		t.Fatalf("got %v at the end", err)
	}
}

func TestBrokenFramesAreProtocolErrors(t *testing.T) {
	whole := appendFrame(nil, kindEvent, 0, []byte("{}"))
	for _, data := range [][]byte{whole[:1], whole[:4], whole[:8], whole[:9], whole[:10], {0, 0, 0, 4}, {0, 4, 0, 6, 1, 0, 0, 0, 0}} {
		_, err := newFrameReader(bytes.NewReader(data)).next()
		if !errors.As(err, &protocolError{}) {
			t.Errorf("%v: got %v", data, err)
		}
	}
}

// FuzzDecode: any bytes are frames, an error, or the end; and frames that are read are written back the same.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add(appendFrame(appendFrame(nil, kindEvent, 0, []byte("{}")), kindData, 7, []byte("x")))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		reader := newFrameReader(bytes.NewReader(data))
		var again []byte
		for {
			got, err := reader.next()
			if err != nil {
				if err != io.EOF && !errors.As(err, &protocolError{}) {
					t.Fatalf("got %v", err)
				}
				break
			}
			again = appendFrame(again, got.kind, got.stream, got.payload)
		}
		if !bytes.HasPrefix(data, again) {
			t.Fatal("written back differently")
		}
	})
}

// FuzzHandle: a relay that runs takes frames in any order, or refuses them with a protocol error; it never panics.
func FuzzHandle(f *testing.F) {
	event := []byte(`{"request_id":"r","length":2}`)
	f.Add(appendFrame(appendFrame(nil, kindEvent, 0, event), kindData, 0, []byte("{}")), true)
	f.Add(appendFrame(appendFrame(nil, kindAPIResponse, 1, []byte(`{"status":200}`)), kindEnd, 1, nil), true)
	f.Add(appendFrame(appendFrame(nil, kindEnd, 1, []byte(`{"error":"x"}`)), kindData, 1, []byte("x")), false)
	f.Fuzz(func(t *testing.T, data []byte, asked bool) {
		r := newRelay(io.Discard)
		r.calls, r.proxy = newInvocations(r.out), newProxy(r.out, true, 100)
		r.memory = &memoryGauge{tree: r.tree, wake: make(chan struct{}, 1)}
		r.proxy.open()
		if asked {
			if _, _, _, ok := r.calls.poll(); !ok {
				t.Fatal("refused the first poll")
			}
		}
		reader := newFrameReader(bytes.NewReader(data))
		for {
			got, err := reader.next()
			if err == nil && got.kind != kindKill {
				err = r.handle(got)
			}
			if err == io.EOF {
				return
			}
			if err != nil {
				if !errors.As(err, &protocolError{}) {
					t.Fatalf("got %v", err)
				}
				return
			}
		}
	})
}

// FuzzStart: START is a configuration or a protocol error.
func FuzzStart(f *testing.F) {
	f.Add([]byte(`{"argv":["/bin/true"],"env":{"PATH":"/bin"},"response_limit":1}`))
	f.Add([]byte(`{"argv":[],"uid":-1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := parseStart(data)
		if err != nil {
			if !errors.As(err, &protocolError{}) {
				t.Fatalf("got %v", err)
			}
			return
		}
		if len(cfg.resolve()) == 0 && len(cfg.Bootstraps) == 0 || len(cfg.environment("127.0.0.1:1")) == 0 {
			t.Fatal("no command or no environment")
		}
	})
}
