"""The functions' zips, each under its SHA-256, and the signed URLs at which workers and callers download them.

A zip is looked through before it is kept, written beside its place, synced and renamed, so a name that exists is
complete. Storing one twice is storing it once. What no version needs any more is removed after :data:`GRACE_S`, which
covers uploads whose function is not in the catalog yet and workers that are about to fetch.
"""

import asyncio
import hashlib
import hmac
import io
import logging
import os
import re
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, ParamSpec, TypeVar

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from dispatcher.settings import DispatcherSettings
from dispatcher.wire.errors import AwsError
from workers.contract.archive import (
    ArchiveError,
    ArchiveTooLarge,
    Limits,
    NotAnArchive,
    check_zip,
)

T = TypeVar("T")
P = ParamSpec("P")

#: Where the URLs of zips begin.
CODE_PATH: Final = "/_everwarm/code/"
#: How long a zip that nothing refers to is kept, in seconds.
GRACE_S: Final = 3600.0
#: How long a URL that GetFunction gives stays valid, as on AWS, in seconds.
URL_VALID_S: Final = 600

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_DIGITS: Final = re.compile(r"[0-9]{1,12}")
_CHUNK: Final = 1 << 20
_THREADS: Final = 4
_NOT_A_ZIP: Final = "Could not unzip uploaded file. Please check your file, then try to upload again."
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredZip:
    """A zip that was accepted."""

    sha256: str
    """Hex."""
    size: int
    """Bytes, zipped."""


class CodeStore:
    """The zips below one directory. ``secret`` signs the URLs; all dispatchers of one catalog share it."""

    def __init__(
        self,
        directory: Path,
        secret: bytes,
        limits: Limits | None = None,
        zipped_bytes: int = 52_428_800,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._secret = secret
        self._limits = limits or Limits()
        self._zipped_bytes = zipped_bytes
        self._clock = clock
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="code")
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    @classmethod
    def from_settings(cls, settings: DispatcherSettings, secret: bytes) -> "CodeStore":
        """The store in the data directory, with the limits that were set."""
        limits = Limits(unpacked_bytes=settings.code_unzipped_bytes, time_s=settings.code_extract_s)
        return cls(settings.data_dir / "code", secret, limits, settings.code_zipped_bytes)

    async def run_in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Slow work on code, in threads of its own: uploads must not delay what else the process does in threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))

    # --- storing ---

    async def put(self, data: bytes) -> StoredZip:
        """Check and keep a zip. Raises AWS's errors for what is no zip, too large, or unsafe."""
        self._check_size(len(data))
        return await self.run_in_thread(self._put, io.BytesIO(data))

    async def put_file(self, file: IO[bytes]) -> StoredZip:
        """Check and keep a zip from a seekable file that came by S3: there only the unpacked size is limited, as on AWS."""
        return await self.run_in_thread(self._put, file)

    async def check(self, data: bytes) -> StoredZip:
        """Check a zip as :meth:`put` does, and keep nothing."""
        self._check_size(len(data))
        return await self.run_in_thread(self._check, io.BytesIO(data))

    async def check_file(self, file: IO[bytes]) -> StoredZip:
        """Check a zip as :meth:`put_file` does, and keep nothing."""
        return await self.run_in_thread(self._check, file)

    def _check_size(self, size: int) -> None:
        if size > self._zipped_bytes:
            raise AwsError(
                "RequestEntityTooLargeException", f"Zipped size must be smaller than {self._zipped_bytes} bytes"
            )

    def _check(self, source: IO[bytes]) -> StoredZip:
        size = source.seek(0, os.SEEK_END)
        if not size:
            raise AwsError("InvalidParameterValueException", "Uploaded file must be a non-empty zip")
        try:
            summary = check_zip(source, self._limits)
        except ArchiveError as error:
            raise _refusal(error) from error
        if not summary.entries:
            raise AwsError("InvalidParameterValueException", "Uploaded file must be a non-empty zip")
        source.seek(0)
        digest = hashlib.file_digest(source, "sha256")  # type: ignore[arg-type]  # any object with readinto will do
        return StoredZip(sha256=digest.hexdigest(), size=size)

    def _put(self, source: IO[bytes]) -> StoredZip:
        stored = self._check(source)
        path = self.path(stored.sha256)
        try:
            os.utime(path)  # a new grace period, before the garbage collector looks
        except FileNotFoundError:
            source.seek(0)
            self._write(source, path)
        return stored

    def _write(self, source: IO[bytes], path: Path) -> None:
        path.parent.mkdir(exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                while chunk := source.read(_CHUNK):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            Path(name).rename(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)

    # --- reading ---

    def path(self, sha256: str) -> Path:
        """Where a zip is, or would be; raises ``ValueError`` for what is no SHA-256 in hex."""
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"not a SHA-256 in hex: {sha256!r}")
        return self._directory / sha256[:2] / f"{sha256}.zip"

    def open(self, sha256: str) -> IO[bytes]:
        """The bytes of a zip; ``FileNotFoundError`` when it is not here."""
        return self.path(sha256).open("rb")

    # --- signed URLs ---

    def signed_path(self, sha256: str, valid_s: float = URL_VALID_S) -> str:
        """Path and query of a zip's URL, valid for so many seconds from now."""
        path = f"{CODE_PATH}{sha256}"
        expires = int(self._clock() + valid_s)
        return f"{path}?expires={expires}&signature={self.sign(path, expires)}"

    def sign(self, path: str, expires: int) -> str:
        """The signature of a path until the Unix time ``expires``."""
        return hmac.new(self._secret, f"GET\n{path}\n{expires}".encode(), hashlib.sha256).hexdigest()

    def verify(self, path: str, expires: str, signature: str) -> bool:
        """Whether the query of a URL is ours and still valid."""
        if not _DIGITS.fullmatch(expires) or int(expires) < self._clock():
            return False
        return hmac.compare_digest(self.sign(path, int(expires)).encode(), signature.encode())

    def routes(self) -> list[Route]:
        """The page below ``/_everwarm`` that answers signed URLs."""
        return [Route("/code/{sha256}", self._download, methods=["GET"])]

    async def _download(self, request: Request) -> Response:
        sha256 = request.path_params["sha256"]
        query = request.query_params
        if not self.verify(f"{CODE_PATH}{sha256}", query.get("expires", ""), query.get("signature", "")):
            return JSONResponse({"message": "The URL is not valid, or no longer valid."}, status_code=403)
        if not _SHA256.fullmatch(sha256) or not self.path(sha256).is_file():
            return JSONResponse({"message": "There is no such code."}, status_code=404)
        return FileResponse(self.path(sha256), media_type="application/zip")

    # --- removing ---

    async def collect(self, in_use: Collection[str]) -> int:
        """Remove the zips that are not ``in_use`` and older than the grace period; how many were removed."""
        return await self.run_in_thread(self._collect, in_use)

    def _collect(self, in_use: Collection[str]) -> int:
        removed = 0
        oldest = self._clock() - GRACE_S
        for path in self._directory.glob("??/*"):
            if path.name.removesuffix(".zip") in in_use:
                continue
            try:
                if path.stat().st_mtime < oldest:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:
                _log.debug("%s was removed by another dispatcher", path.name)
        return removed


class CodeCollector:
    """Upkeep of the store: removes what nothing needs, at start and every hour."""

    def __init__(self, store: CodeStore, in_use: Callable[[], Awaitable[Collection[str]]]) -> None:
        self._store = store
        self._in_use = in_use

    async def collect_unused(self) -> int:
        """Remove what nothing needs; how many zips that were."""
        removed = await self._store.collect(await self._in_use())
        if removed:
            _log.info("removed %d zips that no function needs", removed)
        return removed

    async def collect_forever(self, every_s: float = GRACE_S) -> None:
        """Remove what nothing needs, again every ``every_s`` seconds, until cancelled."""
        while True:
            try:
                await self.collect_unused()
            except AwsError as error:
                _log.warning("looking for zips that no function needs failed: %s", error)
            await asyncio.sleep(every_s)


def _refusal(error: ArchiveError) -> AwsError:
    """AWS's error; where AWS only says that it could not unzip, the reason is added unless the file is no zip at all."""
    if isinstance(error, NotAnArchive):
        return AwsError("InvalidParameterValueException", _NOT_A_ZIP)
    if isinstance(error, ArchiveTooLarge):
        return AwsError("InvalidParameterValueException", str(error))
    return AwsError("InvalidParameterValueException", f"{_NOT_A_ZIP} Reason: {error}.")


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
