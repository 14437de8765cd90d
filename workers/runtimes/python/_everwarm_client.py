"""Runtime API client for Python functions, for Python 3.8 to 3.14.

It runs in the function's own process under the function's own interpreter, so it imports nothing but the standard
library, and of that as little as it can: start-up time is the caller's time. ``json``, ``logging`` and ``traceback``
would more than double the start of a bare interpreter; they come in when the function or an error needs them
(:mod:`_everwarm_details`). What a function can observe follows AWS's own client, ``awslambdaric`` 4.

The function's folder may hold modules of any name. Standard modules that AWS has loaded before the function's folder
comes onto ``sys.path`` win over those of the function there; :data:`_LOADED_ON_AWS` keeps that so here.
"""

import sys
from os import environ, listdir
from posix import getcwd

import _socket

#: Top-level standard modules that are loaded on AWS before the function's code is.
_LOADED_ON_AWS = frozenset(
    "_bootlocale _collections_abc _colorize _decimal _heapq _json _socket _struct _weakrefset abc codecs collections "
    "concurrent contextlib copyreg decimal encodings enum functools genericpath heapq importlib io json keyword "
    "linecache logging math numbers operator os posixpath re reprlib site sre_compile sre_constants sre_parse stat "
    "string struct textwrap threading time token tokenize traceback types warnings weakref".split()
)
#: From these runtimes on AWS writes JSON without escaping what is not ASCII.
_UNICODE_JSON = frozenset("AWS_Lambda_python3.%d" % minor for minor in range(12, 20))
_API = "/2018-06-01/runtime"
_RECEIVE_BYTES = 65536


class Fault(Exception):
    """An error that the runtime, not the function, names: ``Runtime.…``."""

    def __init__(self, kind, message, trace=None):
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.trace = trace


class Unbuffered:
    """A text stream that is flushed at every write, so that nothing printed is lost when the process is killed."""

    def __init__(self, stream):
        self.stream = stream

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        pass

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def __iter__(self):
        return iter(self.stream)

    def write(self, text):
        written = self.stream.write(text)
        self.stream.flush()
        return written

    def writelines(self, lines):
        self.stream.writelines(lines)
        self.stream.flush()


class Api:
    """One keep-alive HTTP/1.1 connection to the Runtime API. Requests go out in one write each."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._host = address.encode()
        self._sock = None
        self._rest = b""

    def send(self, method, path, body=b"", headers=()):
        """Send a request. One that finds the kept connection closed by the other side is sent on a new one."""
        lines = ["%s %s%s HTTP/1.1\r\nHost: " % (method, _API, path)]
        lines += ["%s: %s\r\n" % header for header in headers]
        if method == "POST":
            lines.append("Content-Length: %d\r\n" % len(body))
        lines.append("\r\n")
        head = lines[0].encode() + self._host + b"\r\n" + "".join(lines[1:]).encode("latin-1", "replace")
        parts = (head, body) if body else (head,)
        try:
            sent = self._sock.sendmsg(parts) if self._sock is not None else 0
        except OSError:
            self.close()
        if self._sock is None:
            self._connect()
            sent = self._sock.sendmsg(parts)
        if sent < len(head):
            self._sock.sendall(head[sent:])
            sent = len(head)
        if sent < len(head) + len(body):
            self._sock.sendall(memoryview(body)[sent - len(head) :])

    def receive(self):
        """The response to the last request: status, headers by lower-case name, body."""
        data = self._rest
        end = data.find(b"\r\n\r\n")
        while end < 0:
            more = self._sock.recv(_RECEIVE_BYTES)
            if not more:
                self.close()
                raise ConnectionError("the Runtime API closed the connection")
            data += more
            end = data.find(b"\r\n\r\n")
        status_line, *lines = data[:end].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        self._rest = data[end + 4 :]
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = self._chunks()
        else:
            body = self._exactly(int(headers.get("content-length", 0)))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return int(status_line.split(" ", 2)[1]), headers, body

    def close(self):
        if self._sock is not None:
            self._sock.close()
        self._sock = None
        self._rest = b""

    def _connect(self):
        self._sock = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        self._sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        self._sock.connect(self._address)

    def _exactly(self, size):
        rest = self._rest
        if len(rest) >= size:
            self._rest = rest[size:]
            return rest[:size]
        body = bytearray(size)
        filled = len(rest)
        body[:filled] = rest
        self._rest = b""
        with memoryview(body) as view:
            while filled < size:
                count = self._sock.recv_into(view[filled:])
                if not count:
                    self.close()
                    raise ConnectionError("the Runtime API closed the connection within a body")
                filled += count
        return body

    def _line(self):
        while True:
            line, found, rest = self._rest.partition(b"\r\n")
            if found:
                self._rest = rest
                return line
            more = self._sock.recv(_RECEIVE_BYTES)
            if not more:
                self.close()
                raise ConnectionError("the Runtime API closed the connection within a chunk")
            self._rest += more

    def _chunks(self):
        body = bytearray()
        while True:
            size = int(self._line().partition(b";")[0], 16)
            if not size:
                break
            body += self._exactly(size)
            self._line()
        while self._line():  # trailers
            pass
        return body


class _Decoding:
    """What the scanner of :mod:`_json` asks its context for: ``json.loads`` with all defaults."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}.__getitem__
    memo = {}


class Json:
    """JSON as AWS's client reads and writes it, by the C core of :mod:`json` without the cost of importing that."""

    def __init__(self, ensure_ascii):
        try:
            import _json

            self._scan = _json.make_scanner(_Decoding)
            self._text = _json.encode_basestring_ascii if ensure_ascii else _json.encode_basestring
            self._make = _json.make_encoder
            self._make({}, self._default, self._text, None, ": ", ", ", False, False, True)([{}], 0)
        except (ImportError, AttributeError, TypeError):  # another Python than CPython, or a future one
            from json import JSONDecoder, encoder

            self._scan = JSONDecoder().scan_once
            self._text = encoder.encode_basestring_ascii if ensure_ascii else encoder.encode_basestring
            self._make = None

    def decode(self, data):
        """Raises ``ValueError`` as ``json.loads`` does."""
        text = str(data, "utf-8")
        start = len(text) - len(text.lstrip(" \t\n\r"))
        try:
            value, end = self._scan(text, start)
        except (StopIteration, ValueError, SystemError):  # without json.decoder in memory it can't raise what it should
            value, end = None, start
        if end != len(text) and text[end:].strip(" \t\n\r") or end == start:
            from json import loads

            return loads(text)  # raises
        return value

    def encode(self, value):
        """Raises ``TypeError`` or ``ValueError`` on what JSON cannot hold."""
        if isinstance(value, str):
            return self._text(value)
        try:
            plain = self._make is not None and _plain(value)
        except RecursionError:
            plain = True  # the encoder tells a circle from mere depth
        if plain:
            return "".join(self._make({}, self._default, self._text, None, ": ", ", ", False, False, True)(value, 0))
        return _details().encode(value, self._text)

    def _default(self, value):
        raise TypeError("Object of type %s is not JSON serializable" % value.__class__.__name__)


_LEAVES = frozenset((str, int, float, bool, type(None)))


def _plain(value):
    """Whether a value holds nothing that AWS writes otherwise than :mod:`json`: bytes, named tuples, Decimals."""
    kind = type(value)
    if kind in _LEAVES:
        return True
    if kind is dict:
        for key in value:
            if type(key) not in _LEAVES:
                return False
        items = value.values()
    elif kind is list or kind is tuple:
        items = value
    else:
        return False
    for item in items:
        if type(item) not in _LEAVES and not _plain(item):
            return False
    return True


def _details():
    """The rarely needed half of the client."""
    details = sys.modules.get("_everwarm_details")
    if details is None:
        folder = __file__.rpartition("/")[0]
        sys.path.insert(0, folder)
        try:
            import _everwarm_details as details
        finally:
            sys.path.remove(folder)
    return details


class _LoggingSetup:
    """A finder on ``sys.meta_path`` that sets AWS's log handler up at the moment ``logging`` is imported."""

    def __init__(self, runtime):
        self._runtime = runtime

    def find_spec(self, name, path=None, target=None):
        if name != "logging":
            return None
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target) if finder is not self else None
            if spec is not None:
                self._follow(spec.loader)
                return spec
        return None

    def _follow(self, loader):
        execute = loader.exec_module

        def exec_module(module):
            del loader.exec_module
            execute(module)
            sys.meta_path.remove(self)
            _details().set_up_logging(module, self._runtime)

        loader.exec_module = exec_module


class Runtime:
    """The loop: ask for an event, call the handler, report."""

    def __init__(self):
        self.api = Api(environ["AWS_LAMBDA_RUNTIME_API"])
        self.json = Json(environ.get("AWS_EXECUTION_ENV") not in _UNICODE_JSON)
        self.stdout = sys.stdout = Unbuffered(sys.stdout)
        sys.stderr = Unbuffered(sys.stderr)
        self.request_id = None
        self.tenant_id = None
        LambdaContext._stdout = self.stdout
        self.own_file = Runtime.__init__.__code__.co_filename

    def load(self, handler):
        """The handler function, or ``None`` when loading failed and that is reported."""
        try:
            return load_handler(handler)
        except Fault as fault:
            error = _details().fault_error(fault, "")
        except Exception:
            error = _details().exception_error(sys.exc_info(), "", self.own_file)
        _details().log_error(error, self)
        body = self.json.encode(error).encode("utf-8", "backslashreplace")
        self.api.send("POST", "/init/error", body, _error_headers(error))
        self.api.receive()
        return None

    def serve(self, request_handler):
        api = self.api
        while True:
            api.send("GET", "/invocation/next")
            status, headers, body = api.receive()
            if status != 200:
                raise RuntimeError("LAMBDA_RUNTIME Failed to get next invocation: HTTP status %d" % status)
            self.request_id = headers["lambda-runtime-aws-request-id"]
            self.tenant_id = headers.get("lambda-runtime-aws-tenant-id")
            trace_id = headers.get("lambda-runtime-trace-id")
            if trace_id is not None:
                environ["_X_AMZN_TRACE_ID"] = trace_id
            elif "_X_AMZN_TRACE_ID" in environ:
                del environ["_X_AMZN_TRACE_ID"]
            self.report(*self.handle_event_request(request_handler, headers, body))
            headers = body = None

    def handle_event_request(self, request_handler, headers, body):
        """Run the handler. Returns the ending of the path to report to, the body, and its headers."""
        try:
            context = self.context(headers)
            if headers.get("content-type", "application/json") == "application/json":
                event = self.event(body)
            else:
                event = bytes(body)
            response = request_handler(event, context)
            if isinstance(response, bytes):
                return "/response", response, (("Content-Type", "application/unknown"),)
            result = self.result(response)
        except Fault as fault:
            error = _details().fault_error(fault, self.request_id)
        except Exception:
            error = _details().exception_error(sys.exc_info(), self.request_id, self.own_file)
        else:
            return "/response", result.encode(), (("Content-Type", "application/json"),)
        _details().log_error(error, self)
        return "/error", self.json.encode(error).encode("utf-8", "backslashreplace"), _error_headers(error)

    def report(self, ending, body, headers):
        path = "/invocation/%s%s" % (self.request_id, ending)
        try:
            self.api.send("POST", path, body, headers)
            status = self.api.receive()[0]
        except ConnectionError as error:  # what refuses a body that is too large may close before it has read it
            self.api.close()
            status = error
        if status != 202:
            kind = "success" if ending == "/response" else "failure"
            self.stdout.write(
                "LAMBDA_RUNTIME Failed to post handler %s response. Http response code: %s.\n" % (kind, status)
            )

    def event(self, body):
        try:
            return self.json.decode(body)
        except Exception as error:
            raise Fault("Runtime.UnmarshalError", "Unable to unmarshal input: %s" % error) from error

    def result(self, response):
        try:
            return self.json.encode(response)
        except Exception as error:
            raise Fault("Runtime.MarshalError", "Unable to marshal response: %s" % error) from error

    def context(self, headers):
        return LambdaContext(
            headers["lambda-runtime-aws-request-id"],
            self._document(headers.get("lambda-runtime-client-context"), "Client Context"),
            self._document(headers.get("lambda-runtime-cognito-identity"), "Cognito Identity"),
            int(headers.get("lambda-runtime-deadline-ms", 0)),
            headers.get("lambda-runtime-invoked-function-arn"),
            self.tenant_id,
        )

    def _document(self, text, name):
        if not text:
            return None
        try:
            return self.json.decode(text.encode("latin-1"))
        except Exception as error:
            kind = "Runtime.LambdaContextUnmarshalError"
            raise Fault(kind, "Unable to parse %s JSON: %s" % (name, error)) from error


class LambdaContext:
    """The handler's second argument."""

    _stdout = None

    def __init__(self, invoke_id, client_context, cognito_identity, deadline_ms, arn, tenant_id):
        self.aws_request_id = invoke_id
        self.log_group_name = environ.get("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
        self.function_name = environ.get("AWS_LAMBDA_FUNCTION_NAME")
        self.memory_limit_in_mb = environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        self.function_version = environ.get("AWS_LAMBDA_FUNCTION_VERSION")
        self.invoked_function_arn = arn
        self.tenant_id = tenant_id
        self._w3c_fields = _take_w3c(client_context)
        self.client_context = _filled(ClientContext, client_context)
        if self.client_context is not None:
            self.client_context.client = _filled(Client, self.client_context.client)
        self.identity = _filled(CognitoIdentity, {})
        if cognito_identity is not None:
            self.identity.cognito_identity_id = cognito_identity.get("cognitoIdentityId")
            self.identity.cognito_identity_pool_id = cognito_identity.get("cognitoIdentityPoolId")
        self._epoch_deadline_time_in_ms = deadline_ms

    def get_remaining_time_in_millis(self):
        from time import time

        return max(self._epoch_deadline_time_in_ms - int(time() * 1000), 0)

    def w3c(self):
        """The W3C trace context that came with the call."""
        return dict(self._w3c_fields)

    def log(self, msg):
        self._stdout.write(str(msg))

    def __repr__(self):
        names = (
            "aws_request_id log_group_name log_stream_name function_name memory_limit_in_mb function_version "
            "invoked_function_arn client_context identity tenant_id"
        )
        return _shown(self, names.split())


class CognitoIdentity:
    """``context.identity``"""

    __slots__ = ["cognito_identity_id", "cognito_identity_pool_id"]

    def __repr__(self):
        return _shown(self, self.__slots__)


class Client:
    """``context.client_context.client``"""

    __slots__ = ["installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name"]

    def __repr__(self):
        return _shown(self, self.__slots__)


class ClientContext:
    """``context.client_context``"""

    __slots__ = ["custom", "env", "client"]

    def __repr__(self):
        return _shown(self, self.__slots__)


def _shown(value, names):
    fields = ",".join("%s=%s" % (name, getattr(value, name)) for name in names)
    return "%s([%s])" % (value.__class__.__name__, fields)


def _filled(kind, document):
    if document is None:
        return None
    value = kind()
    for name in kind.__slots__:
        setattr(value, name, document.get(name))
    return value


def _take_w3c(client_context):
    if not isinstance(client_context, dict):
        return {}
    found = client_context.pop("w3c", None)
    if not isinstance(found, dict):
        return {}
    return {name: found[name] for name in ("traceparent", "tracestate", "baggage") if isinstance(found.get(name), str)}


def _error_headers(error):
    kind = "".join(letter for letter in error["errorType"] if " " < letter < "\x7f")
    return ("Content-Type", "application/json"), ("Lambda-Runtime-Function-Error-Type", kind)


def load_handler(handler):
    """The function that ``module.function`` names; the module may lie in a package (``a.b`` or ``a/b``)."""
    try:
        module_name, name = handler.rsplit(".", 1)
    except ValueError as error:
        raise Fault("Runtime.MalformedHandlerName", "Bad handler '%s': %s" % (handler, error)) from error
    try:
        if module_name.split(".")[0] in sys.builtin_module_names:
            message = "Cannot use built-in module %s as a handler module" % module_name
            raise Fault("Runtime.BuiltInModuleConflict", message)
        from importlib import import_module

        module = import_module(module_name.replace("/", "."))
    except ImportError as error:
        message = "Unable to import module '%s': %s" % (module_name, error)
        raise Fault("Runtime.ImportModuleError", message) from error
    except SyntaxError as error:
        trace = ['  File "%s" Line %s\n    %s' % (error.filename, error.lineno, error.text)]
        message = "Syntax error in module '%s': %s" % (module_name, error)
        raise Fault("Runtime.UserCodeSyntaxError", message, trace) from error
    try:
        return getattr(module, name)
    except AttributeError as error:
        message = "Handler '%s' missing on module '%s'" % (name, module_name)
        raise Fault("Runtime.HandlerNotFound", message) from error


def _set_up_path():
    """Put the function's folder first, after loading what it must not hide; drop Everwarm's own packages."""
    root = environ.get("LAMBDA_TASK_ROOT") or getcwd()
    hidden = environ.pop("_EVERWARM_HIDDEN_PATH", None)
    if hidden is not None:
        sys.path[:] = [entry for entry in sys.path if entry != hidden]
    try:
        names = {entry.partition(".")[0] for entry in listdir(root)} & _LOADED_ON_AWS
    except OSError:
        names = set()
    for name in names:
        try:
            __import__(name)
        except ImportError:  # not part of this version of Python
            pass
    sys.path.insert(0, root)


def main():
    handler = environ.get("_HANDLER", "")
    runtime = Runtime()
    if "logging" in sys.modules:
        _details().set_up_logging(sys.modules["logging"], runtime)
    else:
        sys.meta_path.insert(0, _LoggingSetup(runtime))
    _set_up_path()
    request_handler = runtime.load(handler)
    if request_handler is None:
        sys.exit(1)
    runtime.serve(request_handler)
