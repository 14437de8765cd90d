"""Root file systems: tar archives that mmdebstrap makes of recipes, kept in a cache."""

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from workers.images.recipes import Recipe

#: How long an archive that nobody asked for is kept.
_KEPT_S: Final = 30 * 86_400
_LONGEST_BUILD_S: Final = 86_400
_NOWHERE: Final = "/dev/null"
#: What no image needs; the layers' scripts remove the rest.
_LEFT_OUT: Final = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
)


class BuildError(Exception):
    """A root file system can't be built here: one line says what to do."""


def cache_directory(environ: Mapping[str, str]) -> Path:
    """``XDG_CACHE_HOME`` or ``~/.cache``, and our folders in it."""
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".cache")
    return Path(base) / "everwarm" / "images"


def archive(recipe: Recipe, cache: Path) -> Path:
    """Path of a recipe's root file system in the cache; built when it is not there. Raises :class:`BuildError`."""
    target = cache / f"{recipe.runtime}-{recipe.digest}.tar"
    if target.is_file():
        target.touch()
        return target
    _check_tools(recipe)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Renamed into place when it is whole: two builds may run at a time, and any may be interrupted.
        with tempfile.TemporaryDirectory(prefix=f".{recipe.runtime}-", dir=cache) as scratch:
            _build(recipe, Path(scratch)).replace(target)
        _forget_old(cache)
    except OSError as error:
        raise BuildError(f"{error.strerror}: {error.filename or cache}") from error
    return target


def _check_tools(recipe: Recipe) -> None:
    if os.geteuid() != 0:
        raise BuildError(f"the image of {recipe.runtime} can only be built by root; run the command with sudo")
    if shutil.which("mmdebstrap") is None:
        raise BuildError("mmdebstrap is missing; type: apt-get install mmdebstrap")
    if recipe.compile_packages and shutil.which("npm") is None:
        raise BuildError("npm is missing; type: apt-get install npm")


def _build(recipe: Recipe, scratch: Path) -> Path:
    out = scratch / "out"
    out.mkdir()
    scripts = recipe.scripts("compile")
    if recipe.compile_packages and scripts:
        steps = [f'sh {shlex.quote(str(script))} "$1" {shlex.quote(str(out))}' for script in scripts]
        _mmdebstrap(recipe, scratch, _NOWHERE, (*recipe.packages, *recipe.compile_packages), steps)
    steps = []
    for layer in recipe.layers:
        if (layer / "root").is_dir():
            files = scratch / f"{layer.name}.tar"
            _pack(recipe, layer, files)
            steps.append(f"tar-in {shlex.quote(str(files))} /")
        if (layer / "install").is_file():
            steps.append(f'sh {shlex.quote(str(layer / "install"))} "$1" {shlex.quote(str(out))}')
    target = scratch / "root.tar"
    _mmdebstrap(recipe, scratch, str(target), recipe.packages, steps)
    return target


def _mmdebstrap(recipe: Recipe, scratch: Path, target: str, packages: tuple[str, ...], steps: list[str]) -> None:
    """Make a root file system, run the steps in it in order, and pack it into ``target``."""
    kind = "null" if target == _NOWHERE else "tar"
    command = ["mmdebstrap", "--mode=root", "--variant=essential", f"--include={','.join(packages)}"]
    # Without it bookworm needs all of Perl, for usrmerge.
    command += ["--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr", f"--format={kind}"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    command += [f"--customize-hook={step}" for step in steps]
    command += [recipe.suite, target]
    environment = {**os.environ, **recipe.variables, "PYTHON": sys.executable, "TMPDIR": str(scratch)}
    # Would cut the times of files, by which Python knows its compiled ones.
    environment.pop("SOURCE_DATE_EPOCH", None)
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        umask=0o022,
    )
    if done.returncode != 0:
        words = done.stdout.decode(errors="replace").strip()
        raise BuildError(f"the image of {recipe.runtime} could not be built; mmdebstrap said:\n{words[-4000:]}")


def _pack(recipe: Recipe, layer: Path, target: Path) -> None:
    """Pack a layer's files as root's, with modes that do not depend on how the checkout or the installation was made."""
    with tarfile.open(target, "w") as packed:
        for path in recipe.files(layer):
            entry = packed.gettarinfo(path, str(path.relative_to(layer / "root")))
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = "root"
            with path.open("rb") as content:
                entry.mode = 0o755 if content.read(2) == b"#!" else 0o644
                content.seek(0)
                packed.addfile(entry, content)


def _forget_old(cache: Path) -> None:
    """Remove archives that nobody uses any more, and what builds that were killed have left."""
    now = time.time()
    for file in cache.glob("*.tar"):
        if file.stat().st_mtime < now - _KEPT_S:
            file.unlink(missing_ok=True)
    for folder in cache.glob(".*-*"):
        if folder.stat().st_mtime < now - _LONGEST_BUILD_S:
            shutil.rmtree(folder, ignore_errors=True)
