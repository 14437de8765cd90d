"""``python -m workers``: one worker, told everything by its environment variables."""

import os
import sys

from workers import settings as worker_settings
from workers.contract import log
from workers.contract.settings import SettingError


def main() -> int:
    """Run until a signal; 2 and a line on standard error when a setting is invalid."""
    try:
        settings = worker_settings.read(os.environ)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    log.configure("worker", settings.log, debug=settings.debug)
    # What follows imports Celery, which a wrong setting need not wait for.
    from workers.app import Worker  # noqa: PLC0415

    return Worker(settings).run()


if __name__ == "__main__":
    sys.exit(main())
