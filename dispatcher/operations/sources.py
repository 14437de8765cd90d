"""Where the code of CreateFunction and UpdateFunctionCode comes from: a zip in the request or in S3, a directory, an image."""

import hashlib
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from dispatcher.catalog.rows import Code
from dispatcher.code import s3
from dispatcher.code.store import StoredZip
from dispatcher.operations.call import Call
from dispatcher.wire.errors import AwsError

#: Buckets that mean a directory of the host; the second is the older name.
HOT_RELOAD_BUCKETS: Final = frozenset({"hot-reload", "__local__"})


async def take_code(call: Call, source: Mapping[str, Any], package_type: str, *, keep: bool = True) -> Code:
    """The code that ``source`` (a ``FunctionCode``, or UpdateFunctionCode's request) names.

    A zip is checked, and with ``keep`` stored; a directory is looked at, never copied; an image is only named.
    """
    zip_file: bytes | None = source.get("ZipFile")
    bucket, key, image = source.get("S3Bucket"), source.get("S3Key"), source.get("ImageUri")
    if package_type == "Image":
        return _image(image, other=zip_file is not None or bool(bucket or key))
    if image:
        raise _invalid("Please don't provide ImageUri when updating a function with packageType Zip.")
    if zip_file is not None:
        if bucket or key:
            raise _invalid("Please do not provide other FunctionCode parameters when providing a ZipFile.")
        store = call.services.code
        return _zip(await (store.put(zip_file) if keep else store.check(zip_file)))
    if not bucket or not key:
        raise _invalid("Please provide a source for function code.")
    if bucket in HOT_RELOAD_BUCKETS:
        settings = call.services.settings
        roots = settings.hot_reload_roots or ()
        return await call.services.code.run_in_thread(hot_reload_code, key, roots, settings.code_extract_s)
    return await _from_s3(call, bucket, key, source.get("S3ObjectVersion"), keep=keep)


def _zip(stored: StoredZip) -> Code:
    return Code(sha256=stored.sha256, size=stored.size)


async def _from_s3(call: Call, bucket: str, key: str, version: str | None, *, keep: bool) -> Code:
    store = call.services.code
    with await store.run_in_thread(s3.fetch, call.services.settings, bucket, key, version) as file:
        return _zip(await (store.put_file(file) if keep else store.check_file(file)))


def _image(uri: str | None, *, other: bool) -> Code:
    if not uri or other:
        raise _invalid("Please provide ImageUri when updating a function with packageType Image.")
    return Code(sha256=hashlib.sha256(uri.encode()).hexdigest(), image_uri=uri)


# --- hot reload ---


def hot_reload_code(
    text: str, roots: Sequence[Path], time_s: float, *, clock: Callable[[], float] = time.monotonic
) -> Code:
    """A directory of the host as code. Its real path must lie below a root, and no socket may be in it: whoever can
    open a Docker socket owns the machine. Raises ``InvalidParameterValueException``.
    """
    if not roots:
        raise _invalid("Hot reload is off: set EVERWARM_HOT_RELOAD_ROOTS to the directories that may be used.")
    if not text.startswith("/") or "\0" in text:
        raise _invalid(f"With hot reload S3Key must be an absolute path, not {text!r}.")
    path = _real_directory(text)
    if not any(path.is_relative_to(root.resolve()) for root in roots):
        raise _invalid(f"{text} is not below EVERWARM_HOT_RELOAD_ROOTS.")
    _refuse_sockets(path, clock() + time_s, clock)
    return Code(sha256=hashlib.sha256(os.fsencode(path)).hexdigest(), hot_reload_path=str(path))


def _real_directory(text: str) -> Path:
    try:
        path = Path(text).resolve(strict=True)
        mode = path.stat().st_mode
    except (OSError, RuntimeError):
        raise _invalid(f"{text} does not exist.") from None
    if not stat.S_ISDIR(mode):
        raise _invalid(f"{text} is not a directory.")
    return path


def _refuse_sockets(path: Path, end: float, clock: Callable[[], float]) -> None:
    waiting = [path]
    while waiting:
        if clock() > end:
            raise _invalid(f"{path} contains too many files to look through in LAMBDA_CODE_EXTRACT_TIME seconds.")
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    elif _is_socket(entry):
                        raise _invalid(f"{entry.path} is a socket; a directory with one can't be used for hot reload.")
        except PermissionError as error:
            raise _invalid(f"{error.filename} can't be read.") from None


def _is_socket(entry: "os.DirEntry[str]") -> bool:
    if entry.is_file(follow_symlinks=False):
        return False
    try:
        return stat.S_ISSOCK(entry.stat().st_mode)  # through links too
    except OSError:
        return False  # a dangling link


def _invalid(message: str) -> AwsError:
    return AwsError("InvalidParameterValueException", message)
