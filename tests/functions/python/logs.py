"""Writes one line in each of the ways that functions use."""

import logging
import sys

logger = logging.getLogger(__name__)
logging.getLogger().setLevel(logging.INFO)
logger.warning("at import")


def handler(event, context):
    print("printed")
    sys.stderr.write("to standard error\n")
    logging.info("by the root logger, %s", event)  # noqa: LOG015 - as many functions do
    logger.warning("by a named logger")
    logger.debug("below the level")
    return {}
