"""Programs that some tests need and that pip can't install."""

import os
import shutil

import pytest


def require(program: str, package: str) -> str:
    """Its path. Where it is missing the test is skipped with the command to type; in CI it fails."""
    found = shutil.which(program)
    if found is None:
        words = f"{program} is missing; type: apt-get install {package} (or run make test with EVERWARM_TEST_INSTALL=1)"
        if os.environ.get("CI") == "true":
            pytest.fail(words)
        pytest.skip(words)
    return found
