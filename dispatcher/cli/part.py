"""``everwarm dispatcher`` and ``everwarm worker``: one part of the system as this process."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from dispatcher import settings as dispatcher_settings
from dispatcher.cli import redis
from dispatcher.cli.mode import find_docker, require_docker
from dispatcher.settings import DispatcherSettings
from workers.contract import log
from workers.contract import settings as shared
from workers.contract.settings import SettingError

#: ``-P``: a file in the current directory must never be taken for a module of ours.
PYTHON: Final = (sys.executable, "-P")
#: Exit status of a part that refuses to start because of its settings.
INVALID_SETTING: Final = 2

logger = logging.getLogger(__name__)


class PartError(Exception):
    """The part can't start here; one line for people."""


def run_dispatcher(environ: Mapping[str, str]) -> None:
    """Serve until a signal; raises ``SettingError`` and ``RedisError`` before anything listens."""
    settings = dispatcher_settings.read(environ)
    log.configure("dispatcher", settings.log, debug=settings.debug)
    _require_redis(settings)
    found = redis.check(settings.redis_url)
    if not settings.supervised:
        for line in (*shared.warnings(environ), *found):
            logger.warning(line)

    _serve(settings)


def _serve(settings: DispatcherSettings) -> None:
    from dispatcher import serve
    from dispatcher.sql.database import CatalogBusy
    from dispatcher.sql.migrations import SchemaTooNew

    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        serve.serve_until_signal(settings)
    except (CatalogBusy, SchemaTooNew) as error:
        raise PartError(str(error)) from None
    except OSError as error:
        raise PartError(f"{error.strerror}: {error.filename or settings.endpoint}") from error
    except Exception as error:
        if type(error).__module__.startswith("sqlalchemy."):
            # Further lines of the error would show the statement and its parameters.
            where = redis.without_password(settings.database_url)
            logger.critical("the catalog's database %s can't be used: %s", where, str(error).partition("\n")[0])
        else:
            logger.critical("the dispatcher ends", exc_info=True)
        sys.exit(1)


def run_worker(environ: Mapping[str, str]) -> NoReturn:
    """Become a worker process; raises ``SettingError`` when one of the worker's settings is invalid, and ``RedisError``."""
    check_worker(environ)
    settings = shared.read(shared.Shared, environ)
    log.configure("worker", settings.log, debug=settings.debug)
    _require_redis(settings)
    mode = environ.get("EVERWARM_MODE") or "local"
    if mode != "local":
        daemon = find_docker(environ)
        require_docker("EVERWARM_MODE", mode, daemon)
        environ = {**environ, "DOCKER_HOST": str(daemon)}
    for line in (*shared.warnings(environ), *redis.check(settings.redis_url)):
        logger.warning(line)
    os.execve(sys.executable, [*PYTHON, "-m", "workers"], dict(environ))


def check_worker(environ: Mapping[str, str]) -> None:
    """Let a worker process read its settings; raises ``SettingError`` with its words."""
    ask_worker("workers.settings", environ)


def ask_worker(module: str, environ: Mapping[str, str]) -> Any:
    """The JSON document that a module of the worker side prints; ``SettingError`` when one of its settings is invalid."""
    done = subprocess.run([*PYTHON, "-m", module], env=dict(environ), capture_output=True, check=False, timeout=60)
    words = done.stderr.decode(errors="replace").strip()
    if done.returncode == INVALID_SETTING:
        name, _, rest = words.partition("=")
        value, _, why = rest.partition(": ")
        raise SettingError(name, value, why)
    if done.returncode != 0:
        raise RuntimeError(f"{module} ended with status {done.returncode}: {words}")
    return json.loads(done.stdout)


def _require_redis(settings: shared.Shared) -> None:
    if not settings.redis_url:
        raise SettingError("EVERWARM_REDIS_URL", "", "must be set; `everwarm up` alone starts a Redis of its own")
