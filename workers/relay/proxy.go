package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
)

const maxAPIRequests = 64 // under way at a time; more wait

// proxy passes requests of the function to the Lambda API on to the worker, each as a stream of its own.
type proxy struct {
	out     *frameWriter
	enabled bool
	limit   int64
	slots   chan struct{}

	mu      sync.Mutex
	last    uint32
	streams map[uint32]*apiStream
}

type apiStream struct {
	head chan apiHead // capacity 1
	body *body
	seen bool // API_RESPONSE came; used by the reader of stdin alone
}

// apiHead is the payload of API_RESPONSE, see FRAMES.md.
type apiHead struct {
	Status  int         `json:"status"`
	Headers [][2]string `json:"headers"`
}

func newProxy(out *frameWriter, enabled bool, limit int64) *proxy {
	return &proxy{
		out: out, enabled: enabled, limit: limit, slots: make(chan struct{}, maxAPIRequests), streams: map[uint32]*apiStream{},
	}
}

func (p *proxy) serve(w http.ResponseWriter, req *http.Request) {
	if !p.enabled {
		refuse(w, http.StatusForbidden, "AccessDeniedException", "This function may not call the Lambda API")
		return
	}
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-req.Context().Done():
		return
	}
	id, stream := p.open()
	if !p.forward(id, req, w) {
		return
	}
	select {
	case head := <-stream.head:
		writeAPIHead(w, head)
	case <-req.Context().Done():
		stream.body.drop()
		return
	}
	if err := stream.body.copyTo(flushing{w, http.NewResponseController(w)}); errors.Is(err, errAborted) {
		panic(http.ErrAbortHandler) // net/http's way to break a connection off; it recovers this one quietly
	}
}

func (p *proxy) open() (uint32, *apiStream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	id := p.last
	stream := &apiStream{head: make(chan apiHead, 1)}
	stream.body = newBody(&creditWindow{send: func(n int) { p.out.credit(id, n) }})
	p.streams[id] = stream
	return id, stream
}

func (p *proxy) find(id uint32) *apiStream {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.streams[id]
}

func (p *proxy) close(id uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.streams, id)
}

// forward sends the request to the worker. It answers false when there is nothing to wait for, having dealt with w.
func (p *proxy) forward(id uint32, req *http.Request, w http.ResponseWriter) bool {
	headers := [][2]string{{"Host", req.Host}}
	for name, values := range req.Header {
		for _, value := range values {
			headers = append(headers, [2]string{name, value})
		}
	}
	head := encode(map[string]any{"method": req.Method, "target": req.RequestURI, "headers": headers})
	if len(head) > maxPayload {
		p.close(id)
		refuse(w, http.StatusRequestHeaderFieldsTooLarge, "InvalidRequestContentException", "Request headers too large")
		return false
	}
	p.out.send(kindAPIRequest, id, head)
	buf := chunks.Get().(*[2*headerBytes + bodyChunk]byte)
	defer chunks.Put(buf)
	total := int64(0)
	for {
		n, err := req.Body.Read(buf[headerBytes : headerBytes+bodyChunk])
		total += int64(n)
		switch {
		case total > p.limit:
			p.giveUp(id)
			_, _ = io.CopyN(io.Discard, req.Body, drainLimit)
			refuse(w, http.StatusRequestEntityTooLarge, "RequestTooLargeException", "Request must be smaller")
			return false
		case err != nil && !errors.Is(err, io.EOF):
			p.giveUp(id)
			return false
		}
		if n > 0 {
			putHeader(buf[:], kindData, id, n)
			p.out.write(buf[:headerBytes+n])
		}
		if err != nil {
			p.out.send(kindEnd, id, nil)
			return true
		}
	}
}

// giveUp tells the worker that a request broke off; it answers nothing to that.
func (p *proxy) giveUp(id uint32) {
	p.close(id)
	p.out.send(kindEnd, id, []byte(`{"error":"aborted"}`))
}

func writeAPIHead(w http.ResponseWriter, head apiHead) {
	for _, pair := range head.Headers {
		switch strings.ToLower(pair[0]) {
		case "connection", "transfer-encoding", "keep-alive":
		default:
			w.Header().Add(pair[0], pair[1])
		}
	}
	w.WriteHeader(head.Status)
}

// flushing has every part on the wire when it came, for responses that stream.
type flushing struct {
	io.Writer
	control *http.ResponseController
}

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	if err == nil {
		err = f.control.Flush()
	}
	return n, err
}

// data takes a part of a response's body from the worker.
func (p *proxy) data(f frame) error {
	stream := p.find(f.stream)
	if stream == nil || !stream.seen {
		return protocolErrorf("DATA on stream %d, which has no response", f.stream)
	}
	return stream.body.push(f.payload)
}

// handle takes API_RESPONSE and END from the worker.
func (p *proxy) handle(f frame) error {
	stream := p.find(f.stream)
	if stream == nil || stream.seen == (f.kind == kindAPIResponse) {
		return protocolErrorf("a frame of type 0x%02x on stream %d, which does not wait for it", f.kind, f.stream)
	}
	if f.kind == kindAPIResponse {
		var head apiHead
		if err := json.Unmarshal(f.payload, &head); err != nil || head.Status < 200 || head.Status > 599 {
			return protocolErrorf("API_RESPONSE is not what it should be: %v", err)
		}
		stream.seen = true
		stream.head <- head
		return nil
	}
	p.close(f.stream)
	if len(f.payload) > 0 {
		var end struct {
			Error string `json:"error"`
		}
		if err := json.Unmarshal(f.payload, &end); err != nil {
			return protocolErrorf("END is not what it should be: %v", err)
		}
		if end.Error != "" {
			stream.body.end(errAborted)
			return nil
		}
	}
	stream.body.end(io.EOF)
	return nil
}
