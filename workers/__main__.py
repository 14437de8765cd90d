"""``python -m workers``: one worker, told everything by its environment variables."""

import logging
import os
import resource
import sys
from typing import Final

from workers import settings as worker_settings
from workers.contract import log
from workers.contract.settings import SettingError

#: Four for each environment, of which a thousand are possible. Not without end, because some programs close one by one all
#: that their limit allows.
_OPEN_FILES: Final = 1 << 20


def main() -> int:
    """Run until a signal; 2 and a line on standard error when a setting is invalid."""
    try:
        settings = worker_settings.read(os.environ)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    log.configure("worker", settings.log, debug=settings.debug)
    _allow_open_files()
    # What follows imports Celery, which a wrong setting need not wait for.
    from workers.app import Worker  # noqa: PLC0415
    from workers.engine import EngineUnavailable  # noqa: PLC0415

    try:
        worker = Worker(settings)
    except EngineUnavailable as error:
        logging.getLogger(__name__).critical("mode %s needs a container engine: %s", settings.mode, error)
        return 1
    return worker.run()


def _allow_open_files() -> None:
    """Raise the limit of open files as far as this process may; the functions' own limit is set by their relay."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


if __name__ == "__main__":
    sys.exit(main())
