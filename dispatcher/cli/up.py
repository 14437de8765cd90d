"""``everwarm up``: every part on one machine under one supervisor.

The supervisor has one thread and waits for signals only (``sigtimedwait``): a part that died is started again after a
growing delay; SIGINT or SIGTERM stops the workers and the dispatcher together, which lets running calls finish, then Redis;
a second one stops at once. Every part dies with the supervisor (``dispatcher.cli.process``), and environments die with
their worker, so ``kill -9`` leaves nothing behind.
"""

import fcntl
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import click
import msgspec

from dispatcher import settings as dispatcher_settings
from dispatcher.cli import redis
from dispatcher.cli.client import Server
from dispatcher.cli.mode import Choice, choose_mode, find_docker
from dispatcher.cli.part import INVALID_SETTING, PYTHON, check_worker
from dispatcher.cli.process import spawn
from dispatcher.settings import DispatcherSettings
from workers.contract import log
from workers.contract import settings as shared

#: Seconds that running calls get when everything stops; with what follows it stays below ten.
DRAIN_S: Final = 7
_KILL_AFTER_DRAIN_S: Final = 1.5
_REDIS_STOP_S: Final = 1.0
_DELAYS_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
#: A part that lived this long begins with the first delay again.
_STABLE_S: Final = 30.0
_START_ATTEMPTS: Final = 3
_SLOW_START_S: Final = 20.0
_STOP: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_WATCHED: Final = _STOP | {signal.SIGCHLD}

logger = logging.getLogger(__name__)


class UpError(Exception):
    """Everwarm can't start, or can't go on; one line for people."""


class Part:
    """A process that is started again when it dies."""

    def __init__(self, name: str, start: Callable[[], "subprocess.Popen[bytes]"]) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self.deaths = 0
        self.due = 0.0
        """Monotonic time of the next start while it is not running."""
        self._start = start
        self._started = 0.0

    def start(self) -> None:
        """Start the process now."""
        self._started = time.monotonic()
        self.process = self._start()

    def died(self) -> int | None:
        """The process' exit status, once, when it has ended (negative: by that signal); sets ``due``."""
        if self.process is None or self.process.poll() is None:
            return None
        status = self.process.returncode
        self.process = None
        now = time.monotonic()
        self.deaths = 1 if now - self._started > _STABLE_S else self.deaths + 1
        self.due = now + self.delay_s
        return status

    @property
    def delay_s(self) -> float:
        """How long the part waits before its next start, in seconds."""
        return _DELAYS_S[min(max(self.deaths, 1), len(_DELAYS_S)) - 1]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if the process runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None


def run_all(environ: Mapping[str, str], workers: int) -> int:
    """Run everything until a signal; the exit status. Raises ``SettingError``, ``RedisError``, :class:`UpError`."""
    settings = dispatcher_settings.read(environ)
    check_worker(environ)
    daemon = find_docker(environ)
    choice = choose_mode(settings, daemon)
    log.configure("up", settings.log, debug=settings.debug)
    for line in shared.warnings(environ):
        logger.warning(line)
    with _locked(settings.data_dir):
        _require_free_port(settings)
        click.echo(_start_line(settings, choice))
        if daemon:
            environ = {**environ, "DOCKER_HOST": daemon}
        return Supervisor(environ, settings, choice, workers, images=bool(daemon)).run()


def _start_line(settings: DispatcherSettings, choice: Choice) -> str:
    lines = [f"Everwarm starts in mode {choice.mode}: {choice.why}. Data in {settings.data_dir}."]
    if choice.mode == "docker":
        lines.append(
            "docker starts a container for every call; docker-reuse is the fast one (LAMBDA_EXECUTOR=docker-reuse)."
        )
    if choice.mode == "local" and os.geteuid() != 0:
        lines.append("Not started as root, so mode local is no boundary: functions can read what you can read.")
    return "\n".join(lines)


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Lock the data directory, which is created for this user only."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.fdopen(os.open(data_dir / "up.lock", os.O_RDWR | os.O_CREAT, 0o600), "r+")
    except OSError as error:
        raise UpError(f"data directory {data_dir}: {error.strerror}; choose another with --data") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip()
            raise UpError(
                f"another `everwarm up` (process {holder}) uses {data_dir}: stop it, or choose another with --data"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _require_free_port(settings: DispatcherSettings) -> None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UpError(
            f"can't listen on {settings.host} port {settings.port}: {error.strerror}; choose another with --port"
        ) from None


class Supervisor:
    """Starts the parts, keeps them running, stops them."""

    def __init__(
        self,
        environ: Mapping[str, str],
        settings: DispatcherSettings,
        choice: Choice,
        workers: int,
        *,
        images: bool = False,
    ) -> None:
        """``images``: a container engine answers, so that container images can run beside mode local."""
        self._here = msgspec.structs.replace(settings, advertise_url="").endpoint
        self._server = Server(self._here, settings.credentials[0] if settings.credentials else None)
        self._ready = False
        self._slow_at = time.monotonic() + _SLOW_START_S
        self._environ = {
            **environ,
            "EVERWARM_DATA": str(settings.data_dir),
            "EVERWARM_ENDPOINT": self._here,
            "EVERWARM_DRAIN_S": environ.get("EVERWARM_DRAIN_S") or str(DRAIN_S),
            "EVERWARM_MODE": choice.mode,
            "EVERWARM_SUPERVISED": "1",
            "LAMBDA_EXECUTOR": choice.mode,
        }
        self._drain_s = float(self._environ["EVERWARM_DRAIN_S"])
        self._redis = self._embedded_redis(settings)
        self._parts = [
            Part("dispatcher", lambda: spawn([*PYTHON, "-m", "dispatcher.cli", "dispatcher"], self._environ)),
            *(Part(f"worker {number}", partial(self._start_worker, str(number))) for number in range(1, workers + 1)),
        ]
        if images and choice.mode == "local" and settings.image_worker:
            self._parts.append(
                Part("worker for container images", partial(self._start_worker, "images", EVERWARM_MODE="docker-reuse"))
            )

    def _start_worker(self, suffix: str, **settings: str) -> "subprocess.Popen[bytes]":
        given = self._environ.get("EVERWARM_WORKER_NAME")
        name = {"EVERWARM_WORKER_NAME": f"{given}-{suffix}"} if given else {}
        return spawn([*PYTHON, "-m", "workers"], {**self._environ, **name, **settings})

    def _embedded_redis(self, settings: DispatcherSettings) -> Part | None:
        if settings.redis_url:
            for line in redis.check(settings.redis_url):
                logger.warning(line)
            return None
        embedded = redis.EmbeddedRedis(settings.data_dir / "redis")
        self._environ["EVERWARM_REDIS_URL"] = embedded.url
        return Part("redis", embedded.start)

    def run(self) -> int:
        """Supervise until a signal; the exit status, 0. Raises :class:`UpError` when a part can't be started at all."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        try:
            for part in self._all():
                part.start()
            while not self._told_to_stop():
                self._tend_parts()
        finally:
            self._stop_parts()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return 0

    def _all(self) -> list[Part]:
        return [*([self._redis] if self._redis else []), *self._parts]

    def _told_to_stop(self) -> bool:
        now = time.monotonic()
        waits = [part.due - now for part in self._all() if not part.running]
        wait = min([*waits, 10.0 if self._ready else 0.1])
        found = signal.sigtimedwait(_WATCHED, max(wait, 0.0))
        return found is not None and found.si_signo in _STOP

    def _tend_parts(self) -> None:
        """Start again what died, and find out whether all is ready."""
        for part in self._all():
            status = part.died()
            if status is not None:
                self._report_death(part, status)
            elif part.process is None and time.monotonic() >= part.due:
                self._restart(part)
        if not self._ready:
            self._check_ready()

    def _report_death(self, part: Part, status: int) -> None:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        if not self._ready and (status == INVALID_SETTING or part.deaths >= _START_ATTEMPTS):
            raise UpError(f"{part.name} {how} and does not start; what it said stands above")
        logger.error("%s %s; it is started again in %g s", part.name, how, part.delay_s)

    def _restart(self, part: Part) -> None:
        try:
            part.start()
        except redis.RedisError as error:
            part.deaths += 1
            part.due = time.monotonic() + part.delay_s
            logger.error("%s; tried again in %g s", error, part.delay_s)
            return
        logger.info("%s is started again", part.name)

    def _check_ready(self) -> None:
        self._ready = self._server.healthy()
        if self._ready:
            click.echo(f"Everwarm is ready at {self._here} (Ctrl-C stops it).")
        elif time.monotonic() > self._slow_at:
            self._slow_at = float("inf")
            logger.warning(
                "not ready after %g s: the dispatcher at %s can't run a function yet", _SLOW_START_S, self._here
            )

    def _stop_parts(self) -> None:
        if self._ready:
            click.echo(f"Everwarm stops; running calls get up to {self._drain_s:g} s (Ctrl-C again: none).")
        for part in self._parts:
            part.signal(signal.SIGTERM)
        self._await_parts(self._parts, self._drain_s + _KILL_AFTER_DRAIN_S)
        if self._redis:
            self._redis.signal(signal.SIGTERM)
            self._await_parts([self._redis], _REDIS_STOP_S)

    def _await_parts(self, parts: list[Part], patience_s: float) -> None:
        """Wait until all have ended; those that live on at the end, or at another signal to stop, are killed."""
        deadline = time.monotonic() + patience_s
        while any(part.running for part in parts) and (left := deadline - time.monotonic()) > 0:
            found = signal.sigtimedwait(_WATCHED, left)
            if found is not None and found.si_signo in _STOP:
                break
        for part in parts:
            part.signal(signal.SIGKILL)
        for part in parts:
            if part.process is not None:
                part.process.wait()
