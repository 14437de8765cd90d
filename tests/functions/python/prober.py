"""Does what an attacker would: the event's ``do`` names it, ``path``, ``pid``, … say on what. Answers with what happened."""

import ctypes
import http.client
import os
import socket
from pathlib import Path


def read(event):
    with Path(event["path"]).open("rb") as file:
        return file.read(event.get("bytes", 4096)).decode("latin-1")


def listing(event):
    return sorted(path.name for path in Path(event["path"]).iterdir())


def write(event):
    Path(event["path"]).write_bytes(b"written by a function")
    return "written"


def link(event):
    os.symlink(event["path"], event["link"])
    return "linked"


def follow(event):
    return str(Path(event["path"]).readlink())


def kill(event):
    os.kill(event["pid"], event.get("signal", 0))
    return "sent"


def trace(event):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, event["pid"], 0, 0):  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), "ptrace")
    return "attached"


def read_memory(event):
    """process_vm_readv of any address tells whether it is permitted at all."""
    libc = ctypes.CDLL(None, use_errno=True)

    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    buffer = ctypes.create_string_buffer(16)
    here, there = Vector(ctypes.addressof(buffer), 16), Vector(event["address"], 16)
    if libc.process_vm_readv(event["pid"], ctypes.byref(here), 1, ctypes.byref(there), 1, 0) < 0:
        raise OSError(ctypes.get_errno(), "process_vm_readv")
    return "read"


def become(event):
    os.setuid(event["uid"])
    return os.getuid()


def connect(event):
    """Send bytes to a socket, and read what comes."""
    if "path" in event:
        connection = socket.socket(socket.AF_UNIX)
        address = event["path"]
    else:
        connection = socket.socket()
        address = ("127.0.0.1", event["port"])
    connection.settimeout(5)
    with connection:
        connection.connect(address)
        connection.sendall(event["send"].encode())
        return connection.recv(65536).decode("latin-1")


def request(event):
    connection = http.client.HTTPConnection("127.0.0.1", event["port"], timeout=5)
    connection.request(event.get("method", "GET"), event["path"], event.get("body"), event.get("headers", {}))
    answer = connection.getresponse()
    return {"status": answer.status, "body": answer.read().decode("latin-1")}


def whoami(event):
    return {
        "uid": os.getuid(),
        "groups": sorted({os.getgid(), *os.getgroups()}),
        "pid": os.getpid(),
        "port": int(os.environ["AWS_LAMBDA_RUNTIME_API"].rpartition(":")[2]),
        "root": os.environ["LAMBDA_TASK_ROOT"],
        "tmp": os.environ["TMPDIR"],
        "status": Path("/proc/self/status").read_text(),
    }


def handler(event, context):
    try:
        return {"done": globals()[event["do"]](event)}
    except Exception as error:  # noqa: BLE001 - whatever it is, the test is told
        return {"refused": type(error).__name__, "errno": getattr(error, "errno", None)}
