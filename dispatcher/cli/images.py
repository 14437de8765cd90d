"""``everwarm images``: runtime images, which the worker side builds and knows."""

import json
import subprocess
from collections.abc import Sequence

import click

from dispatcher.cli.part import PYTHON, PartError


def build_images(registry: str, runtimes: Sequence[str]) -> int:
    """Build images; the lines printed and the exit status are the worker side's."""
    command = [*PYTHON, "-m", "workers.images.build", "--registry", registry, "--", *runtimes]
    return subprocess.run(command, check=False).returncode


def show_images(registry: str, *, as_json: bool) -> None:
    """Print a line for each image that can be built."""
    command = [*PYTHON, "-m", "workers.images.state", registry]
    done = subprocess.run(command, check=False, capture_output=True)
    if done.returncode != 0:
        raise PartError(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])
    found = json.loads(done.stdout)
    if as_json:
        click.echo(json.dumps(found["images"]))
        return
    for image in found["images"]:
        click.echo(f"{image['runtime']:<18} {image['state']:<9} {image['image']}")
    if found["problem"]:
        click.echo(f"everwarm: {found['problem']}", err=True)
