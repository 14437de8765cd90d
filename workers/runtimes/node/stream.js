'use strict';
// The writable stream that a streaming handler gets: its bytes leave as chunks of one HTTP request; an error comes in
// the trailers, since the head is gone by then.

const { Writable } = require('stream');
const errors = require('./errors.js');

class ResponseStream extends Writable {
  constructor(api, path) {
    super({ decodeStrings: true });
    this._api = api;
    this._path = path;
    this._contentType = 'application/octet-stream';
    this._trailers = '';
    this._socket = null;
    this._onBeforeFirstWrite = null;
    // Resolves when the Runtime API has taken the whole response.
    this.accepted = new Promise((resolve) => {
      this._accept = resolve;
    });
  }

  setContentType(contentType) {
    if (this._socket) throw new errors.InvalidStreamingOperation('Cannot set content-type, too late.');
    this._contentType = contentType;
  }

  write(chunk, encoding, callback) {
    const raw = typeof chunk === 'string' || chunk instanceof Uint8Array;
    return super.write(raw ? chunk : JSON.stringify(chunk), encoding, callback);
  }

  fail(error, then) {
    const document = errors.toDocument(error);
    const body = Buffer.from(JSON.stringify(document)).toString('base64');
    this._trailers =
      `Lambda-Runtime-Function-Error-Type: ${errors.headerValue(document.errorType)}\r\n` +
      `Lambda-Runtime-Function-Error-Body: ${body}\r\n`;
    this.accepted.then(then);
    if (!this.writableEnded) this.end();
  }

  _begin() {
    const headers = {
      'Content-Type': this._contentType,
      'Lambda-Runtime-Function-Response-Mode': 'streaming',
      'Transfer-Encoding': 'chunked',
      Trailer: 'Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body',
    };
    this._socket = this._api.begin(this._path, headers, () => this._accept());
    if (typeof this._onBeforeFirstWrite === 'function') {
      this._onBeforeFirstWrite((chunk) => this._frame(Buffer.from(chunk)));
    }
  }

  _frame(chunk, done) {
    if (chunk.length === 0) {
      if (done) done();
      return;
    }
    this._socket.cork();
    this._socket.write(`${chunk.length.toString(16)}\r\n`);
    this._socket.write(chunk);
    this._socket.write('\r\n', done);
    this._socket.uncork();
  }

  _write(chunk, encoding, done) {
    if (!this._socket) this._begin();
    this._frame(chunk, done);
  }

  _final(done) {
    if (!this._socket) this._begin();
    this._socket.ref();
    this._socket.write(`0\r\n${this._trailers}\r\n`, done);
  }
}

module.exports = { ResponseStream };
