'use strict';
// The shapes of errors as AWS's client for Node.js reports and logs them.

const util = require('util');

// A header or a JSON document of the Runtime API must not hold DEL.
const withoutDelete = (text) => (typeof text === 'string' ? text.replace(/\x7F/g, '%7F') : text);

const isText = (value) => typeof value === 'string' && value !== '';

function isErrorLike(value) {
  return value && isText(value.name) && isText(value.message) && isText(value.stack);
}

// The body of an error report.
function toDocument(error) {
  try {
    if (util.types.isNativeError(error) || isErrorLike(error)) {
      return {
        errorType: withoutDelete(error.name),
        errorMessage: withoutDelete(error.message),
        trace: withoutDelete(error.stack).split('\n'),
      };
    }
    return { errorType: typeof error, errorMessage: error.toString(), trace: [] };
  } catch (_) {
    return {
      errorType: 'handled',
      errorMessage:
        'callback called with Error argument, but there was a problem while retrieving one or more of its message, name, and stack',
    };
  }
}

// An error as one line of JSON for the log.
function toLogged(error) {
  try {
    return '\t' + JSON.stringify(error, (_, value) => (value instanceof Error ? enumerable(value) : value));
  } catch (_) {
    return '\t' + JSON.stringify(toDocument(error));
  }
}

function enumerable(error) {
  const result = { errorType: error.name, errorMessage: error.message, code: error.code };
  Object.assign(result, error);
  if (typeof error.stack === 'string') result.stack = error.stack.split('\n');
  return result;
}

function stringify(result) {
  let text;
  try {
    text = JSON.stringify(result === undefined ? null : result);
  } catch (_) {
    throw new Error('Unable to stringify response body');
  }
  return text === undefined ? 'null' : text;
}

function headerValue(text) {
  return String(text).replace(/[^\x21-\x7e]/g, '');
}

class ImportModuleError extends Error {}
class HandlerNotFound extends Error {}
class MalformedHandlerName extends Error {}
class UserCodeSyntaxError extends Error {}
class MalformedStreamingHandler extends Error {}
class InvalidStreamingOperation extends Error {}
class UnhandledPromiseRejection extends Error {
  constructor(reason, promise) {
    super(reason);
    this.reason = reason;
    this.promise = promise;
  }
}

const kinds = {
  ImportModuleError,
  HandlerNotFound,
  MalformedHandlerName,
  UserCodeSyntaxError,
  MalformedStreamingHandler,
  InvalidStreamingOperation,
  UnhandledPromiseRejection,
};
for (const name of Object.keys(kinds)) kinds[name].prototype.name = `Runtime.${name}`;

module.exports = Object.assign({ toDocument, toLogged, stringify, headerValue }, kinds);
