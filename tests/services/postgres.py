"""A real PostgreSQL for tests, from Debian's package, as a user without rights in a directory of its own."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.waiting import wait_until

_INSTALL = Path(__file__).parent / "install"


def _programs() -> Path | None:
    """Debian's newest ``bin`` directory of PostgreSQL, or the one on PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4].split(".")[0]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


def _installed() -> Path:
    """As :func:`_programs`; installs the package where tests may, else skips (and fails in CI)."""
    programs = _programs()
    if programs is None:
        done = subprocess.run([_INSTALL, "postgresql:initdb"], check=False, capture_output=True, text=True)
        programs = _programs()
        if programs is None:
            why = f"PostgreSQL is missing: {done.stdout}{done.stderr}"
            if os.environ.get("CI") == "true":
                pytest.fail(why)
            pytest.skip(why)
    return programs


class PostgresServer:
    """A PostgreSQL process on a unix socket, which tests may kill and start again."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        user = _user() if os.geteuid() == 0 else None
        self._uid = user.pw_uid if user else None
        self._gid = user.pw_gid if user else None
        self._groups: list[int] | None = [] if user else None
        self._directory = Path(tempfile.mkdtemp(prefix="everwarm-pg-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        if user is not None:
            os.chown(self._directory, user.pw_uid, user.pw_gid)
        self._run("initdb", "-D", self._data, "-U", "everwarm", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")

    @property
    def _data(self) -> str:
        return str(self._directory / "data")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=self._directory,
            user=self._uid,
            group=self._gid,
            extra_groups=self._groups,
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        log = (self._directory / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [
                    str(self._programs / "postgres"), "-D", self._data, "-k", str(self._directory), "-c", "listen_addresses=",
                    "-c", "fsync=off", "-c", "max_connections=50", "-c", "shared_buffers=16MB",
                ],
                stdout=log, stderr=log, cwd=self._directory, user=self._uid, group=self._gid, extra_groups=self._groups,
            )  # fmt: skip
        ready = [str(self._programs / "pg_isready"), "-q", "-h", str(self._directory)]
        wait_until(
            "PostgreSQL answers", lambda: subprocess.run(ready, check=False, capture_output=True).returncode == 0, 30
        )

    def kill9(self) -> None:
        """End it as a crash would."""
        assert self._process is not None, "PostgreSQL is not running"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._process.kill()
        self._process.wait()
        self._process = None
        # Its helpers end when they see that; the shared memory must be free before the next start.
        wait_until("PostgreSQL's helpers are gone", lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))

    def new_database(self) -> str:
        """SQLAlchemy's URL of an empty database."""
        self._databases += 1
        name = f"test{self._databases}"
        self._run("createdb", "-h", str(self._directory), "-U", "everwarm", name)
        return f"postgresql://everwarm@/{name}?host={self._directory}"

    def close(self) -> None:
        """End it, and remove its directory."""
        if self._process is not None:
            self._process.terminate()  # smart shutdown waits for clients, and all of them are gone
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.kill9()
        shutil.rmtree(self._directory)


def _user() -> pwd.struct_passwd:
    """PostgreSQL refuses to run as root."""
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for one test, which may kill it."""
    yield from _running()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the session; take a database of your own from it."""
    yield from _running()


def _running() -> Iterator[PostgresServer]:
    server = PostgresServer(_installed())
    try:
        server.start()
        yield server
    finally:
        server.close()
