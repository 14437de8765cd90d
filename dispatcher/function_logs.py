"""The functions' logs on disk: one file per function, rotated, all together within ``EVERWARM_LOGS_MAX``.

Workers append chunks to a Redis stream per function; they are taken off only after they were written here, so a
dispatcher that dies loses none. Of several dispatchers one stores, and another goes on when that one is gone; they read the
same files if they share the data directory. ``<data>/logs/<account>/<region>/<function>.log``, and ``.log.1`` for what went before.
"""

import asyncio
import contextlib
import logging
import os
import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import redis.asyncio
from redis import RedisError

from dispatcher.loops import cancel
from dispatcher.redis_client import run_call
from workers.contract import keys
from workers.contract.scripts import locks

_POLL_S: Final = 0.2
_CHUNKS: Final = 64
#: How long a dispatcher that hangs keeps the others from storing; each stream's turn takes a small part of it.
_TURN_MS: Final = 10_000
#: One function may take this part of all before its file is rotated.
_FILE_SHARE: Final = 16
_SAFE: Final = re.compile(r"[A-Za-z0-9_-]{1,170}")

log = logging.getLogger(__name__)


class Logs:
    """Stores what workers ship, and reads it back."""

    def __init__(self, redis_url: str, directory: Path, most_bytes: int) -> None:
        self._redis = redis.asyncio.Redis.from_url(redis_url, socket_timeout=5.0, socket_connect_timeout=2.0)
        self._directory = directory
        self._most_bytes = most_bytes
        self._task: asyncio.Task[None] | None = None
        self._token = secrets.token_hex(8)
        self._stopping = asyncio.Event()

    def start(self) -> None:
        """Begin to store, in the background."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._task = asyncio.create_task(self._store_forever(), name="logs")

    def stop_following(self) -> None:
        """End the answers of :meth:`read_log` that would go on until their reader goes."""
        self._stopping.set()

    async def close(self) -> None:
        """Store what is there, then stop."""
        if self._task is not None:
            await cancel(self._task)
        with contextlib.suppress(RedisError, OSError):
            await self.store_once()
            if await self._redis.get(keys.LOG_WRITER) == self._token.encode():
                await self._redis.delete(keys.LOG_WRITER)
        await self._redis.aclose()

    async def _store_forever(self) -> None:
        while True:
            try:
                stored = await self.store_once()
            except (RedisError, OSError) as error:
                log.debug("logs wait: %s", error)
                stored = 0
            if not stored:
                await asyncio.sleep(_POLL_S)

    async def store_once(self) -> int:
        """Write what stands in the streams, unless another dispatcher does; how many chunks that was. Raises Redis' errors."""
        if not await self._lock_writing():
            return 0
        streams: Any = await self._redis.zrange(keys.LOGS, 0, -1)
        stored = 0
        for stream in streams:
            if stored and not await self._lock_writing():
                break
            chunks: Any = await self._redis.xrange(stream, count=_CHUNKS)
            if not chunks:
                # The worker that ships this log adds the stream again with the next chunk.
                await self._redis.zrem(keys.LOGS, stream)
                continue
            data = b"".join(fields[b"c"] for _, fields in chunks)
            await asyncio.to_thread(self._append, stream.decode(), data)
            await self._redis.xdel(stream, *(entry for entry, _ in chunks))
            stored += len(chunks)
        return stored

    async def _lock_writing(self) -> bool:
        """Whether this dispatcher is, or becomes, the one that stores."""
        return await run_call(self._redis, locks.lock(keys.LOG_WRITER, owner=self._token, life_ms=_TURN_MS)) == "locked"

    def _append(self, stream: str, data: bytes) -> None:
        account, region, function = stream.removeprefix(keys.log("", "", "").rstrip(":") + ":").split(":", 2)
        path = self.path(account, region, function)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size + len(data) > max(self._most_bytes // _FILE_SHARE, 1):
            path.replace(path.with_suffix(".log.1"))
            self._drop_oldest()
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(data)

    def _drop_oldest(self) -> None:
        """Drop the oldest files while all together are over the limit."""
        files = sorted(self._directory.glob("*/*/*.log*"), key=lambda path: path.stat().st_mtime)
        total = sum(path.stat().st_size for path in files)
        for path in files:
            if total <= self._most_bytes:
                return
            total -= path.stat().st_size
            path.unlink()

    def path(self, account: str, region: str, function: str) -> Path:
        """The file of a function's log. Raises ``ValueError`` for names that no function has."""
        if not all(_SAFE.fullmatch(part) for part in (account, region, function)):
            raise ValueError("no such function")
        return self._directory / account / region / f"{function}.log"

    async def read_log(self, path: Path, *, follow: bool) -> AsyncIterator[bytes]:
        """What is stored of a function's log, the older file first; with ``follow`` what comes as well, until the reader goes."""
        for part in (path.with_suffix(".log.1"), path):
            offset = 0
            while data := await asyncio.to_thread(_read_from, part, offset):
                offset += len(data)
                yield data
        while follow and not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _POLL_S)
            if await asyncio.to_thread(_size, path) < offset:
                offset = 0  # the file was rotated
            while data := await asyncio.to_thread(_read_from, path, offset):
                offset += len(data)
                yield data


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read_from(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(1 << 20)
    except FileNotFoundError:
        return b""
