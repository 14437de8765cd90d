"""Images of functions for tests, made without pulling anything: a static program alone, and a layer on a runtime's image."""

import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from tests.services.functions import SAMPLES
from workers.engine import Engine
from workers.relay.build import find_go


@cache
def static_program() -> bytes:
    """tests/functions/static, built."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "function"
        environ = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOWORK": "off"}
        source = str(SAMPLES / "static" / "main.go")
        subprocess.run([find_go(), "build", "-ldflags", "-s -w", "-o", str(target), source], env=environ, check=True)
        return target.read_bytes()


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """A tar archive of programs."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name.lstrip("/"))
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def make_static_image(engine: Engine, name: str, changes: Sequence[str]) -> None:
    """An image of the static program at /function, with Dockerfile instructions."""
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        file.write(tar_of({"/function": static_program()}))
        file.flush()
        engine.import_image(Path(file.name), name, changes)


def make_layered_image(engine: Engine, base: str, name: str, files: Mapping[str, bytes]) -> None:
    """A runtime's image with a function's files on top, as people build theirs."""
    engine.add_layer(base, tar_of(files), name, {})
