'use strict';
// One keep-alive HTTP/1.1 connection to the Runtime API on a plain socket: Node's own `http` would cost milliseconds
// at every start. One request at a time; head and body leave in one write.

const net = require('net');

const PREFIX = '/2018-06-01/runtime';
const END_OF_HEAD = Buffer.from('\r\n\r\n');
const EMPTY = Buffer.alloc(0);

// The Runtime API is gone: there is nobody left to report to.
class ApiGone extends Error {}

class Api {
  constructor(address) {
    const colon = address.lastIndexOf(':');
    this.host = address.slice(0, colon);
    this.port = Number(address.slice(colon + 1));
    this.socket = null;
    this.answer = null; // what collects the response that is due
    this.resend = null;
  }

  // Send a request; `then(status, headers, body)` gets the response, headers by lower-case name.
  request(method, path, headers, body, then) {
    if (this.answer) throw new ApiGone('a request was sent while another waits for its response');
    const reused = this.socket !== null;
    const send = () => {
      const socket = this.open();
      this.answer = new Answer(then, method === 'POST');
      socket.cork();
      socket.write(this.head(method, path, headers, body ? body.length : -1), 'latin1');
      if (body) socket.write(body);
      socket.uncork();
    };
    // A kept connection may have been closed by the other side unseen.
    this.resend = reused && method === 'GET' ? send : null;
    send();
  }

  // Begin a request whose body is written to the socket by the caller, in chunks of its own framing. The socket does
  // not hold the event loop until the caller says so, since the function is still running.
  begin(path, headers, then) {
    const socket = this.open();
    this.answer = new Answer(then, true);
    socket.write(this.head('POST', path, headers, -1), 'latin1');
    socket.unref();
    return socket;
  }

  head(method, path, headers, length) {
    let head = `${method} ${PREFIX}${path} HTTP/1.1\r\nHost: ${this.host}:${this.port}\r\n`;
    for (const name of Object.keys(headers)) head += `${name}: ${headers[name]}\r\n`;
    if (length >= 0) head += `Content-Length: ${length}\r\n`;
    return head + '\r\n';
  }

  open() {
    if (!this.socket) {
      const socket = net.connect(this.port, this.host);
      socket.setNoDelay(true);
      socket.on('data', (data) => this.onData(socket, data));
      socket.on('error', () => {}); // 'close' follows
      socket.on('close', () => this.onClose(socket));
      this.socket = socket;
    }
    this.socket.ref();
    return this.socket;
  }

  onData(socket, data) {
    const answer = this.answer;
    if (!answer || socket !== this.socket || !answer.add(data)) return;
    this.answer = null;
    this.resend = null;
    if (answer.closes) {
      this.socket = null;
      socket.destroy();
    } else {
      socket.unref();
    }
    answer.then(answer.status, answer.headers, answer.body);
  }

  onClose(socket) {
    if (socket !== this.socket) return;
    this.socket = null;
    const { answer, resend } = this;
    this.answer = null;
    this.resend = null;
    if (!answer) return;
    if (resend && !answer.started) resend();
    else answer.gone();
  }
}

// Collects one response from pieces of any size.
class Answer {
  constructor(then, isReport) {
    this.then = then;
    this.isReport = isReport;
    this.started = false;
    this.status = 0;
    this.headers = null;
    this.body = EMPTY;
    this.closes = false;
    this.pieces = [];
    this.size = 0;
    this.wanted = -1; // bytes of body; -1 while the head is due
    this.chunked = false;
  }

  // Take bytes in. True when the response is complete.
  add(data) {
    this.started = true;
    this.pieces.push(data);
    this.size += data.length;
    if (this.wanted < 0 && !this.chunked && !this.takeHead()) return false;
    if (this.chunked) return this.takeChunks();
    if (this.size < this.wanted) return false;
    this.body = this.join().slice(0, this.wanted);
    return true;
  }

  // The connection closed too early. What refuses a large report may close before it has read it: status 0.
  gone() {
    if (this.isReport) this.then(0, {}, EMPTY);
    else throw new ApiGone('the Runtime API closed the connection');
  }

  join() {
    const all = this.pieces.length === 1 ? this.pieces[0] : Buffer.concat(this.pieces, this.size);
    this.pieces = [all];
    return all;
  }

  takeHead() {
    const all = this.join();
    const end = all.indexOf(END_OF_HEAD);
    if (end < 0) return false;
    const lines = all.toString('latin1', 0, end).split('\r\n');
    this.status = Number(lines[0].split(' ')[1]);
    this.headers = {};
    for (let i = 1; i < lines.length; i++) {
      const colon = lines[i].indexOf(':');
      this.headers[lines[i].slice(0, colon).toLowerCase()] = lines[i].slice(colon + 1).trim();
    }
    this.closes = (this.headers.connection || '').toLowerCase() === 'close';
    this.chunked = (this.headers['transfer-encoding'] || '').toLowerCase() === 'chunked';
    if (!this.chunked) this.wanted = Number(this.headers['content-length'] || 0);
    this.pieces = [all.slice(end + END_OF_HEAD.length)];
    this.size = this.pieces[0].length;
    return true;
  }

  takeChunks() {
    const all = this.join();
    const bodies = [];
    let at = 0;
    for (;;) {
      const end = all.indexOf('\r\n', at);
      if (end < 0) return false;
      const length = parseInt(all.toString('latin1', at, end), 16);
      at = end + 2;
      if (length === 0) break;
      if (all.length < at + length + 2) return false;
      bodies.push(all.slice(at, at + length));
      at += length + 2;
    }
    // Trailers, if any, end with an empty line.
    if (all.indexOf('\r\n', at) !== at && all.indexOf(END_OF_HEAD, at) < 0) return false;
    this.body = Buffer.concat(bodies);
    return true;
  }
}

module.exports = { Api, ApiGone };
