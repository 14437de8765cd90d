'use strict';
// console.* in AWS's form: "<ISO time>\t<request id>\t<level>\t<text>", or JSON with AWS_LAMBDA_LOG_FORMAT=JSON.

const util = require('util');
const errors = require('./errors.js');

const LEVELS = ['TRACE', 'DEBUG', 'INFO', 'WARN', 'ERROR', 'FATAL'];
const inJson = (process.env.AWS_LAMBDA_LOG_FORMAT || '').toUpperCase() === 'JSON';
// Where other copies of AWS's libraries look the present request up.
const REQUEST_ID = Symbol.for('aws.lambda.runtime.requestId');
const TENANT_ID = Symbol.for('aws.lambda.runtime.tenantId');

function setRequest(requestId, tenantId) {
  global[REQUEST_ID] = requestId;
  global[TENANT_ID] = tenantId;
}

function write(level, values) {
  const time = new Date().toISOString();
  const line = inJson
    ? jsonLine(time, level, values)
    : `${time}\t${global[REQUEST_ID]}\t${level}\t${util.format(...values)}`;
  process.stdout.write(line + '\n');
}

function jsonLine(time, level, values) {
  const record = { timestamp: time, level, requestId: global[REQUEST_ID] };
  if (global[TENANT_ID] !== undefined && global[TENANT_ID] !== null) record.tenantId = global[TENANT_ID];
  if (values.length === 1) {
    record.message = values[0];
    try {
      return JSON.stringify(record, (_, value) => (value instanceof Error ? described(value) : value));
    } catch (_) {
      record.message = util.format(values[0]);
      return JSON.stringify(record);
    }
  }
  record.message = util.format(...values);
  const error = values.find((value) => value instanceof Error);
  if (error) {
    const { errorType, errorMessage, stackTrace } = described(error);
    Object.assign(record, { errorType, errorMessage, stackTrace: stackTrace || [] });
  }
  return JSON.stringify(record);
}

function described(error) {
  const kind = error.constructor && error.constructor.name;
  const trace = typeof error.stack === 'string' ? error.stack.split('\n') : error.stack;
  return Object.assign({ errorType: kind || 'UnknownError', errorMessage: error.message, stackTrace: trace }, error);
}

function patchConsole() {
  const wanted = LEVELS.indexOf((process.env.AWS_LAMBDA_LOG_LEVEL || '').toUpperCase());
  const methods = { trace: 0, debug: 1, info: 2, log: 2, warn: 3, error: 4, fatal: 5 };
  for (const name of Object.keys(methods)) {
    const level = methods[name];
    console[name] = level >= wanted || name === 'fatal' ? (...values) => write(LEVELS[level], values) : () => {};
  }
  console.log = console.info;
}

function logError(title, error) {
  const real = error instanceof Error ? error : new Error(error);
  if (inJson) console.error(real);
  else console.error(title, errors.toLogged(real));
}

module.exports = { patchConsole, setRequest, logError };
