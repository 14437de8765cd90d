package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	runtimePrefix = "/2018-06-01/runtime/"
	bodyChunk     = 64 << 10
	drainLimit    = 256 << 20 // of a refused body that is read to its end, so that its sender sees the answer
)

// serveRuntime is AWS's Runtime API 2018-06-01; status codes and bodies are those of AWS's own emulator.
func (r *relay) serveRuntime(w http.ResponseWriter, req *http.Request, path string) {
	switch {
	case path == "invocation/next" && req.Method == http.MethodGet:
		r.serveNext(w, req)
	case path == "init/error" && req.Method == http.MethodPost:
		verdict, before := r.calls.failInit()
		r.serveAnswer(w, req, answer{kind: kindInitError, phase: phaseInitError}, verdict, before)
	case strings.HasPrefix(path, "invocation/") && req.Method == http.MethodPost:
		id, what, _ := strings.Cut(path[len("invocation/"):], "/")
		a := answer{id: id}
		switch what {
		case "response":
			a.kind, a.phase = kindResponse, phaseResponse
		case "error":
			a.kind, a.phase = kindError, phaseError
		default:
			http.NotFound(w, req)
			return
		}
		verdict, before := r.calls.answer(id, a.phase)
		r.serveAnswer(w, req, a, verdict, before)
	default:
		http.NotFound(w, req)
	}
}

func (r *relay) serveNext(w http.ResponseWriter, req *http.Request) {
	poll, first, asks, ok := r.calls.poll()
	if !ok {
		refuseState(w, r.calls.state(), phaseReady)
		return
	}
	if asks {
		r.sendNext(first)
	}
	select {
	case e, open := <-poll.event:
		if !open {
			refuseState(w, phaseReady, phaseReady)
			return
		}
		writeEvent(w, e)
	case <-req.Context().Done():
		r.calls.leave(poll)
	}
}

func (r *relay) sendNext(first bool) {
	r.memory.setBusy(false)
	r.logs.drain()
	text := make([]byte, 0, 64)
	text = append(text, `{"memory_kb":`...)
	if first {
		text = strconv.AppendInt(text, r.memory.mark(), 10)
		text = append(text, `,"init_ms":`...)
		text = strconv.AppendFloat(text, float64(time.Since(r.spawned).Microseconds())/1000, 'f', 3, 64)
	} else {
		text = strconv.AppendInt(text, r.memory.peak.Load(), 10)
	}
	r.out.send(kindNext, 0, append(text, '}'))
}

func writeEvent(w http.ResponseWriter, e *event) {
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.FormatInt(e.Length, 10))
	header.Set("Lambda-Runtime-Aws-Request-Id", e.RequestID)
	header.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(e.DeadlineMS, 10))
	header.Set("Lambda-Runtime-Invoked-Function-Arn", e.InvokedARN)
	for name, value := range map[string]string{
		"Lambda-Runtime-Trace-Id":         e.TraceID,
		"Lambda-Runtime-Client-Context":   e.ClientContext,
		"Lambda-Runtime-Cognito-Identity": e.CognitoIdentity,
	} {
		if value != "" {
			header.Set(name, value)
		}
	}
	w.WriteHeader(http.StatusOK)
	_ = e.body.copyTo(w) // a connection that broke: the runtime polls again, is refused, and the invocation times out
}

// answer is a response or an error on its way from the runtime to the worker.
type answer struct {
	kind  byte
	phase phase
	id    string
}

type answerHead struct {
	RequestID   string `json:"request_id"`
	ContentType string `json:"content_type"`
	Streaming   bool   `json:"streaming,omitempty"`
	ErrorType   string `json:"error_type,omitempty"`
}

type answerEnd struct {
	MemoryKB  int64  `json:"memory_kb"`
	TooLarge  bool   `json:"too_large,omitempty"`
	Error     string `json:"error,omitempty"`
	ErrorType string `json:"error_type,omitempty"`
	ErrorBody string `json:"error_body,omitempty"`
}

func (r *relay) serveAnswer(w http.ResponseWriter, req *http.Request, a answer, v verdict, before phase) {
	switch v {
	case wrongState:
		refuseState(w, before, a.phase)
		return
	case wrongID:
		refuse(w, http.StatusBadRequest, "InvalidRequestID", "Invalid request ID")
		return
	}
	end := r.forwardAnswer(req, a)
	if a.kind != kindInitError {
		r.calls.answered()
	}
	switch {
	case end.TooLarge:
		_, _ = io.CopyN(io.Discard, req.Body, drainLimit)
		message := "Exceeded maximum allowed payload size (" + strconv.FormatInt(r.cfg.ResponseLimit, 10) + " bytes)."
		refuse(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", message)
	case end.Error != "":
		refuse(w, http.StatusBadRequest, "TruncatedHTTPRequest", "HTTP request detected as truncated")
	default:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, "{\"status\":\"OK\"}\n")
	}
}

var chunks = sync.Pool{New: func() any { return new([2*headerBytes + bodyChunk]byte) }}

// forwardAnswer passes an answer's head, body and end on to the worker: in one write where it is small and whole.
func (r *relay) forwardAnswer(req *http.Request, a answer) answerEnd {
	head := appendFrame(nil, a.kind, 0, encode(answerHead{
		RequestID:   a.id,
		ContentType: req.Header.Get("Content-Type"),
		Streaming:   req.Header.Get("Lambda-Runtime-Function-Response-Mode") == "streaming",
		ErrorType:   req.Header.Get("Lambda-Runtime-Function-Error-Type"),
	}))
	if req.ContentLength > r.cfg.ResponseLimit {
		return r.endAnswer(head, answerEnd{TooLarge: true})
	}
	buf := chunks.Get().(*[2*headerBytes + bodyChunk]byte)
	defer chunks.Put(buf)
	if n := req.ContentLength; n >= 0 && n <= bodyChunk {
		got, err := io.ReadFull(req.Body, buf[headerBytes:headerBytes+n])
		if err != nil {
			return r.endAnswer(head, answerEnd{Error: "Runtime.TruncatedResponse"})
		}
		if got > 0 {
			putHeader(buf[:], kindData, 0, got)
			head = append(head, buf[:headerBytes+got]...)
		}
		return r.endAnswer(head, answerEnd{})
	}
	r.out.write(head)
	return r.endAnswer(nil, r.streamAnswer(req, buf[:headerBytes+bodyChunk]))
}

func (r *relay) streamAnswer(req *http.Request, buf []byte) answerEnd {
	total := int64(0)
	for {
		n, err := req.Body.Read(buf[headerBytes:])
		if total += int64(n); total > r.cfg.ResponseLimit {
			return answerEnd{TooLarge: true}
		}
		if n > 0 {
			putHeader(buf, kindData, 0, n)
			r.out.write(buf[:headerBytes+n])
		}
		if errors.Is(err, io.EOF) {
			return answerEnd{
				ErrorType: req.Trailer.Get("Lambda-Runtime-Function-Error-Type"),
				ErrorBody: req.Trailer.Get("Lambda-Runtime-Function-Error-Body"),
			}
		}
		if err != nil {
			return answerEnd{Error: "Runtime.TruncatedResponse"}
		}
	}
}

// endAnswer sends what is left of the answer behind the log that was written before it.
func (r *relay) endAnswer(frames []byte, end answerEnd) answerEnd {
	r.memory.setBusy(false)
	end.MemoryKB = r.memory.mark()
	r.logs.drain()
	r.out.write(appendFrame(frames, kindEnd, 0, encode(end)))
	return end
}

func refuseState(w http.ResponseWriter, from, to phase) {
	refuse(w, http.StatusForbidden, "InvalidStateTransition",
		"Transition from "+string(from)+" to "+string(to)+" failed for runtime. Error: State transition is not allowed")
}

func refuse(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct {
		Message string `json:"errorMessage"`
		Type    string `json:"errorType"`
	}{message, kind})
}
