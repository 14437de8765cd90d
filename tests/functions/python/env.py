"""Answers with all environment variables, the user ids, the working directory and where Python looks for modules."""

import os
import sys
from pathlib import Path


def handler(event, context):
    return {
        "env": dict(os.environ),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "cwd": str(Path.cwd()),
        "path": sys.path,
        "argv": sys.argv,
        "version": "{}.{}".format(*sys.version_info),
    }
