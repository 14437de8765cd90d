"""Starts AWS's runtime client with the module search path that functions have on AWS."""

# ruff: noqa: INP001

import os
import site
import sys

TASK_ROOT = os.environ["LAMBDA_TASK_ROOT"]
LAYERS = (f"/opt/python/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages", "/opt/python")


def set_search_path():
    """``/var/task``, the layers, ``/var/runtime`` (this file's folder, so already there), Python's own."""
    folders = [TASK_ROOT]
    if "PYTHONPATH" not in os.environ:
        folders.extend(LAYERS)
        os.environ["PYTHONPATH"] = os.environ["LAMBDA_RUNTIME_DIR"]
    sys.path[:0] = folders
    for folder in folders:
        site.addsitedir(folder)


if __name__ == "__main__":
    set_search_path()
    from awslambdaric.__main__ import main

    main([sys.argv[0], os.environ["_HANDLER"]])
