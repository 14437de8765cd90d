'use strict';
// Runtime API client for Node.js functions, for Node.js 12 to 24.
//
// It runs in the function's own process, so it loads little and leaves nothing of its own in the function's reach but
// the global `awslambda`. What a function can observe follows AWS's client for Node.js: async, promise-returning and
// callback handlers, `callbackWaitsForEmptyEventLoop`, the shapes of errors and of log lines.
//
// The event loop decides when a callback handler is done, so the connection holds the loop only while an answer of the
// Runtime API is due (see api.js), never while the function runs.

const { Api, ApiGone } = require('./api.js');
const errors = require('./errors.js');
const logs = require('./logs.js');
const { load, isStreaming } = require('./handler.js');

const { env } = process;
const soon = setImmediate; // functions replace timers in tests of their own
const EXIT_REJECTION = 128;
const EXIT_EXCEPTION = 129;

class Runtime {
  constructor(api) {
    this.api = api;
    this.requestId = undefined;
    this.whenIdle = null; // called when the event loop has run empty
    this.waiting = false; // for the next event
    this.stream = null; // of the invocation that runs
    process.on('uncaughtException', (error) => {
      if (error instanceof ApiGone) {
        process.stderr.write(`${error.message}\n`);
        process.exit(1);
      }
      this.die('Uncaught Exception', error, EXIT_EXCEPTION);
    });
    process.on('unhandledRejection', (reason, promise) => {
      const error = new errors.UnhandledPromiseRejection(reason, promise);
      this.die('Unhandled Promise Rejection', error, EXIT_REJECTION);
    });
    process.on('beforeExit', () => {
      const act = this.whenIdle;
      this.whenIdle = null;
      if (act) act();
    });
  }

  // Report an error that no handler can answer for, then end.
  die(title, error, status) {
    logs.logError(title, error);
    const exit = () => process.exit(status);
    this.whenIdle = null;
    if (this.waiting) exit(); // there is no invocation that it could be the error of
    else if (this.stream && !this.stream.writableEnded) this.stream.fail(error, exit);
    else if (this.api.answer) this.api.answer.then = exit; // a report is under way, and the first one counts
    else this.postError(this.requestId === undefined ? '/init/error' : this.path('error'), error, exit);
  }

  path(ending) {
    return `/invocation/${this.requestId}/${ending}`;
  }

  postError(path, error, then) {
    const document = errors.toDocument(error);
    const headers = { 'Content-Type': 'application/json' };
    headers['Lambda-Runtime-Function-Error-Type'] = errors.headerValue(document.errorType);
    this.api.request('POST', path, headers, Buffer.from(JSON.stringify(document)), then);
  }

  postResult(result, then) {
    const body = Buffer.from(errors.stringify(result));
    this.api.request('POST', this.path('response'), { 'Content-Type': 'application/json' }, body, (status) => {
      if (status !== 202) {
        console.error(`LAMBDA_RUNTIME Failed to post handler success response. Http response code: ${status}.`);
      }
      then();
    });
  }

  serve(handler) {
    const handle = isStreaming(handler) ? this.handleStreaming : this.handleOnce;
    const next = () => {
      this.whenIdle = null;
      this.stream = null;
      this.waiting = true;
      this.api.request('GET', '/invocation/next', {}, null, (status, headers, body) => {
        if (status !== 200) throw new ApiGone(`no next invocation: HTTP status ${status}`);
        this.waiting = false;
        this.begin(headers);
        handle.call(this, handler, headers, body, () => soon(next));
      });
    };
    next();
  }

  begin(headers) {
    this.requestId = headers['lambda-runtime-aws-request-id'];
    logs.setRequest(this.requestId, headers['lambda-runtime-aws-tenant-id']);
    if (headers['lambda-runtime-trace-id']) {
      env._X_AMZN_TRACE_ID = headers['lambda-runtime-trace-id'];
    } else {
      delete env._X_AMZN_TRACE_ID;
    }
  }

  handleOnce(handler, headers, body, next) {
    const call = new Call(this, next);
    this.whenIdle = () => call.answer(null); // neither a promise nor a callback: null
    try {
      const event = JSON.parse(body.toString());
      const result = handler(event, fillContext(call.context, headers), call.callback);
      if (isPromise(result)) {
        result.then(call.context.succeed, call.context.fail).catch(call.context.fail);
      }
    } catch (error) {
      call.callback(error);
    }
  }

  async handleStreaming(handler, headers, body, next) {
    const { ResponseStream } = require('./stream.js');
    const context = { callbackWaitsForEmptyEventLoop: true };
    const stream = new ResponseStream(this.api, this.path('response'));
    this.stream = stream;
    const finish = () => {
      if (context.callbackWaitsForEmptyEventLoop) this.whenIdle = next;
      else next();
    };
    const fail = (error) => {
      logs.logError('Invoke Error', error);
      stream.fail(error, finish);
    };
    try {
      const result = handler(JSON.parse(body.toString()), stream, fillContext(context, headers));
      if (!isPromise(result)) {
        fail('Streaming does not support non-async handlers.');
        return;
      }
      this.whenIdle = () => fail('Response stream is not finished.');
      if ((await result) !== undefined) console.warn('Streaming handlers ignore return values.');
      await stream.accepted;
      finish();
    } catch (error) {
      this.whenIdle = null;
      fail(error);
    }
  }
}

// One invocation of a handler that is not streaming: whatever answers first counts.
class Call {
  constructor(runtime, next) {
    let waits = true;
    let answered = false;
    let finished = false;
    const once = (act) => (...args) => {
      if (finished) return;
      act(...args);
      finished = true; // only now: a result that is no JSON still has to fail
    };
    this.answer = (result) => {
      if (answered) {
        console.error(
          'Invocation has already been reported as done. Cannot call complete more than once per invocation.'
        );
        return;
      }
      answered = true;
      runtime.postResult(result, next);
    };
    const fail = (error) => {
      logs.logError('Invoke Error', error);
      runtime.postError(runtime.path('error'), error, next);
    };
    const isError = (error) => error !== undefined && error !== null;
    const done = (error, result) => {
      runtime.whenIdle = null;
      if (isError(error)) fail(error);
      else this.answer(result);
    };
    this.callback = once((error, result) => {
      runtime.whenIdle = null;
      if (isError(error)) fail(error);
      else if (!waits) this.answer(result);
      else runtime.whenIdle = () => soon(() => this.answer(result));
    });
    this.context = {
      get callbackWaitsForEmptyEventLoop() {
        return waits;
      },
      set callbackWaitsForEmptyEventLoop(value) {
        waits = value;
      },
      succeed: once((result) => done(null, result)),
      fail: once((error) => done(isError(error) ? error : 'handled')),
      done: once(done),
    };
  }
}

function isPromise(value) {
  return value && value.then && typeof value.then === 'function';
}

function fillContext(context, headers) {
  const deadline = headers['lambda-runtime-deadline-ms'];
  return Object.assign(context, {
    functionVersion: env.AWS_LAMBDA_FUNCTION_VERSION,
    functionName: env.AWS_LAMBDA_FUNCTION_NAME,
    memoryLimitInMB: env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: env.AWS_LAMBDA_LOG_GROUP_NAME,
    logStreamName: env.AWS_LAMBDA_LOG_STREAM_NAME,
    clientContext: parseHeader(headers['lambda-runtime-client-context'], 'ClientContext'),
    identity: parseHeader(headers['lambda-runtime-cognito-identity'], 'CognitoIdentity'),
    invokedFunctionArn: headers['lambda-runtime-invoked-function-arn'],
    awsRequestId: headers['lambda-runtime-aws-request-id'],
    tenantId: headers['lambda-runtime-aws-tenant-id'],
    getRemainingTimeInMillis: () => deadline - Date.now(),
  });
}

function parseHeader(text, name) {
  if (text === undefined) return undefined;
  try {
    return JSON.parse(Buffer.from(text, 'latin1').toString());
  } catch (error) {
    throw new Error(`Cannot parse ${name} as json: ${error.toString()}`);
  }
}

async function main() {
  logs.patchConsole();
  const runtime = new Runtime(new Api(env.AWS_LAMBDA_RUNTIME_API));
  let handler;
  try {
    handler = await load(env.LAMBDA_TASK_ROOT || process.cwd(), env._HANDLER || '');
  } catch (error) {
    runtime.die('Uncaught Exception', error, EXIT_EXCEPTION);
    return;
  }
  runtime.serve(handler);
}

main();
