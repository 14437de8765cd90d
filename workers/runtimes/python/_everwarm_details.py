"""The half of the Python client that most invocations never need: errors, log records, JSON beyond :mod:`json`."""

import sys
from os import environ

_NO_BREAK_SPACE = "\u00a0"
_RESERVED_FIELDS = frozenset(
    "name msg args levelname levelno pathname filename module exc_info exc_text stack_info lineno funcName created "
    "msecs relativeCreated thread threadName processName process aws_request_id tenant_id _frame_type".split()
)


def _error(message, kind, request_id, trace):
    return {"errorMessage": message, "errorType": kind, "requestId": request_id, "stackTrace": trace}


def fault_error(fault, request_id):
    return _error(fault.message, fault.kind, request_id, fault.trace or [])


def exception_error(exc_info, request_id, own_file):
    """The error document of an exception, without the client's own frames above the function's."""
    import traceback

    kind, value, trace = exc_info
    frames = [(frame.filename, frame.lineno, frame.name, frame.line) for frame in traceback.extract_tb(trace)]
    own = 0
    while own < len(frames) and frames[own][0] == own_file:
        own += 1
    if own < len(frames):
        frames = frames[own:]
    return _error(str(value), kind.__name__, request_id, traceback.format_list(frames))


def log_error(error, runtime):
    if _json_format():
        import time

        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        record = {"timestamp": stamp, "level": "ERROR"}
        record.update(error)
        runtime.stdout.write(runtime.json.encode(record) + "\n")
        return
    parts = ["[ERROR]"]
    if error["errorType"]:
        parts.append(error["errorType"] + (":" if error["errorMessage"] else ""))
    if error["errorMessage"]:
        parts.append(error["errorMessage"])
    lines = [" ".join(parts), "Traceback (most recent call last):"]
    for frame in error["stackTrace"]:
        lines.extend(_indented(line) for line in frame.splitlines() or [""])
    text = "\n".join(lines) + "\n"
    encoding = getattr(runtime.stdout, "encoding", None) or "utf-8"
    runtime.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _indented(line):
    text = line.lstrip(" ")
    return _NO_BREAK_SPACE * (len(line) - len(text)) + text


def _json_format():
    return environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"


def set_up_logging(logging, runtime):
    """Give the root logger the handler that it has on AWS."""
    import time

    class LambdaLoggerHandler(logging.Handler):
        def __init__(self, log_sink):
            logging.Handler.__init__(self)
            self.log_sink = log_sink

        def emit(self, record):
            self.log_sink.write(self.format(record))

    class LambdaLoggerFilter(logging.Filter):
        def filter(self, record):
            record.aws_request_id = runtime.request_id or ""
            record.tenant_id = runtime.tenant_id
            return True

    logging.Formatter.converter = time.gmtime
    handler = LambdaLoggerHandler(runtime.stdout)
    if _json_format():
        handler.setFormatter(_json_formatter(logging))
    else:
        handler.setFormatter(
            logging.Formatter(
                "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n", "%Y-%m-%dT%H:%M:%S"
            )
        )
    level = environ.get("AWS_LAMBDA_LOG_LEVEL", "").upper()
    level = "DEBUG" if level == "TRACE" else level
    root = logging.getLogger()
    if level in ("DEBUG", "INFO", "WARNING", "WARN", "ERROR", "CRITICAL", "FATAL", "NOTSET"):
        root.setLevel(level)
    handler.addFilter(LambdaLoggerFilter())
    root.addHandler(handler)


def _json_formatter(logging):
    import json
    import traceback

    class JsonFormatter(logging.Formatter):
        def format(self, record):
            record.levelno = min(50, max(0, record.levelno)) // 10 * 10
            record.levelname = logging.getLevelName(record.levelno)
            plain = isinstance(record.msg, dict) and not record.args
            result = {
                "timestamp": self.formatTime(record, self.datefmt),
                "level": record.levelname,
                "message": record.msg if plain else record.getMessage(),
                "logger": record.name,
            }
            if record.exc_info:
                kind, value, trace = record.exc_info
                result["stackTrace"] = traceback.format_tb(trace)
                result["errorType"] = kind.__name__ if kind else None
                result["errorMessage"] = str(value)
            result["requestId"] = record.aws_request_id
            if record.exc_info:
                result["location"] = "%s:%s:%s" % (record.pathname, record.funcName, record.lineno)
            if record.tenant_id is not None:
                result["tenantId"] = record.tenant_id
            for key, value in record.__dict__.items():
                if key not in _RESERVED_FIELDS and key not in result:
                    result[key] = value
            result = {key: value for key, value in result.items() if value is not None}
            return json.dumps(result, ensure_ascii=False, default=str) + "\n"

    return JsonFormatter(datefmt="%Y-%m-%dT%H:%M:%SZ")


def encode(value, text):
    """JSON of a value as AWS's client writes it: named tuples as objects, bytes as text, Decimals as numbers.

    ``text`` writes a string. Raises ``TypeError`` or ``ValueError`` with the messages of :mod:`json`.
    """
    chunks = []
    _write(value, text, chunks.append, set())
    return "".join(chunks)


def _write(value, text, put, open_containers):
    if isinstance(value, str):
        put(text(str.__str__(value)))
    elif isinstance(value, bytes):
        put(text(str(value, "utf-8")))
    elif value is None:
        put("null")
    elif value is True:
        put("true")
    elif value is False:
        put("false")
    elif isinstance(value, int):
        put(int.__repr__(value))
    elif isinstance(value, float):
        put(_float(value))
    else:
        marker = id(value)
        if marker in open_containers:
            raise ValueError("Circular reference detected")
        open_containers.add(marker)
        _write_container(value, text, put, open_containers)
        open_containers.remove(marker)


def _write_container(value, text, put, open_containers):
    as_dict = None if isinstance(value, type) else getattr(value, "_asdict", None)
    if callable(as_dict):
        fields = as_dict()
        if not isinstance(fields, dict):
            raise TypeError("_asdict() must return a dict, not %s" % type(fields).__name__)
        _write_dict(fields, text, put, open_containers)
    elif isinstance(value, (list, tuple)):
        separator = "["
        for item in value:
            put(separator)
            separator = ", "
            _write(item, text, put, open_containers)
        put("]" if value else "[]")
    elif isinstance(value, dict):
        _write_dict(value, text, put, open_containers)
    else:
        put(_decimal(value))


def _write_dict(value, text, put, open_containers):
    separator = "{"
    for key, item in value.items():
        put(separator + text(_key(key)) + ": ")
        separator = ", "
        _write(item, text, put, open_containers)
    put("}" if value else "{}")


def _key(key):
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, bytes):
        return str(key, "utf-8")
    if isinstance(key, float):
        return _float(key)
    if key is True:
        return "true"
    if key is False:
        return "false"
    if key is None:
        return "null"
    if isinstance(key, int):
        return int.__repr__(key)
    raise TypeError("keys must be str, int, float, bool or None, not %s" % key.__class__.__name__)


def _float(value):
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return float.__repr__(value)


def _decimal(value):
    decimal = sys.modules.get("decimal")
    if decimal is None or not isinstance(value, decimal.Decimal):
        raise TypeError("Object of type %s is not JSON serializable" % value.__class__.__name__)
    return "NaN" if value.is_nan() else str(value)
