'use strict';
// From a handler's name to the function: `file.function`, `folder/file.function`, `file.object.function`.

const fs = require('fs');
const path = require('path');
const errors = require('./errors.js');

const STREAMING = Symbol.for('aws.lambda.runtime.handler.streaming');
const HIGH_WATER_MARK = Symbol.for('aws.lambda.runtime.handler.streaming.highWaterMark');
const RESPONSE = 'response';

async function load(root, handler) {
  if (handler.includes('..')) {
    throw new errors.MalformedHandlerName(
      `'${handler}' is not a valid handler name. Use absolute paths when specifying root directories in handler names.`
    );
  }
  const last = path.basename(handler);
  const folder = handler.substring(0, handler.indexOf(last));
  const dot = last.indexOf('.');
  if (dot < 0) throw new errors.MalformedHandlerName('Bad handler');
  offerStreaming();
  const exported = await loadModule(root, folder, last.slice(0, dot));
  const names = last.slice(dot + 1).split('.');
  const found = names.reduce((value, name) => value && value[name], exported);
  if (!found) throw new errors.HandlerNotFound(`${handler} is undefined or not exported`);
  if (typeof found !== 'function') throw new errors.HandlerNotFound(`${handler} is not a function`);
  return found;
}

async function loadModule(root, folder, name) {
  try {
    return await findModule(root, folder, name);
  } catch (error) {
    if (error instanceof SyntaxError) throw new errors.UserCodeSyntaxError(error);
    if (error && error.code === 'MODULE_NOT_FOUND') throw new errors.ImportModuleError(error);
    throw error;
  }
}

// The order is AWS's: as named, .js (by the nearest package.json), .mjs, .cjs, then as Node resolves a package.
async function findModule(root, folder, name) {
  const file = path.resolve(root, folder, name);
  if (fs.existsSync(file)) {
    const loaded = require(file);
    if (loaded) return loaded;
  }
  const script = fs.existsSync(file + '.js');
  const isModule = script && inModulePackage(path.dirname(file));
  if (script && !isModule) {
    const loaded = require(file + '.js');
    if (loaded) return loaded;
  }
  if (isModule) return importFile(file + '.js');
  if (fs.existsSync(file + '.mjs')) return importFile(file + '.mjs');
  if (fs.existsSync(file + '.cjs')) {
    const loaded = require(file + '.cjs');
    if (loaded) return loaded;
  }
  return require(require.resolve(name, { paths: [root, folder] }));
}

function importFile(file) {
  return import(require('url').pathToFileURL(file).href);
}

function inModulePackage(folder) {
  for (let place = path.resolve(folder); !place.endsWith('/node_modules'); place = path.dirname(place)) {
    const description = path.join(place, 'package.json');
    if (fs.existsSync(description)) {
      try {
        return JSON.parse(fs.readFileSync(description, 'utf8')).type === 'module';
      } catch (error) {
        console.warn(`${description} cannot be read, it will be ignored for ES module detection purposes.`, error);
        return false;
      }
    }
    if (place === path.dirname(place)) return false;
  }
  return false;
}

// The global that functions declare streaming handlers with.
function offerStreaming() {
  if (/^(1|true)$/.test(process.env.AWS_LAMBDA_NODEJS_NO_GLOBAL_AWSLAMBDA || '')) return;
  globalThis.awslambda = {
    streamifyResponse(handler, options) {
      handler[STREAMING] = RESPONSE;
      if (options && typeof options.highWaterMark === 'number') {
        handler[HIGH_WATER_MARK] = Math.trunc(options.highWaterMark);
      }
      return handler;
    },
    HttpResponseStream: {
      from(stream, prelude) {
        stream.setContentType('application/vnd.awslambda.http-integration-response');
        stream._onBeforeFirstWrite = (write) => {
          write(JSON.stringify(prelude));
          write(new Uint8Array(8));
        };
        return stream;
      },
    },
  };
}

function isStreaming(handler) {
  const mark = handler[STREAMING];
  if (mark === undefined || mark === null || mark === false) return false;
  if (mark === RESPONSE) return true;
  throw new errors.MalformedStreamingHandler('Only response streaming is supported.');
}

module.exports = { load, isStreaming };
