"""The commands of ``everwarm`` and their options. Each imports what it needs when it runs, so that ``--help`` is quick."""

import os
import sys
from collections.abc import Callable
from typing import Any

import click


class Commands(click.Group):
    """Errors that a person can mend are one line on standard error and status 2, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        # The imports cost 0.2 s, which --help need not pay.
        from dispatcher.cli.client import ServerError
        from dispatcher.cli.part import PartError
        from dispatcher.cli.process import heed_stop_signals
        from dispatcher.cli.redis import RedisError
        from dispatcher.cli.up import UpError
        from workers.contract.settings import SettingError

        heed_stop_signals()
        try:
            return super().invoke(ctx)
        except (SettingError, RedisError, PartError, UpError, ServerError) as error:
            click.echo(f"everwarm: {error}", err=True)
            ctx.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="everwarm")
def main() -> None:
    """Self-hosted executor for AWS Lambda functions."""


def _environ(**options: object) -> dict[str, str]:
    """The environment with the options given on the command line over it."""
    given = {name: str(int(value) if isinstance(value, bool) else value) for name, value in options.items() if value}
    return {**os.environ, **given}


_HOST = click.option("--host", help="Address to listen on (127.0.0.1).")
_PORT = click.option("--port", type=int, help="Port to listen on (4566).")
_DATA = click.option(
    "--data", type=click.Path(file_okay=False, resolve_path=True), help="Directory for everything kept."
)
_INSECURE = click.option("--insecure", is_flag=True, help="Listen off loopback without credentials.")
_ENDPOINT = click.option("--endpoint", help="The server's URL (http://127.0.0.1:4566).")
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


@main.command("up")
@_HOST
@_PORT
@_DATA
@_INSECURE
@click.option("--mode", default="auto", show_default=True, help="auto, local, docker or docker-reuse.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
@click.option("--concurrency", type=click.IntRange(1, 1024), help="Invocations a worker runs at a time.")
def _up(
    host: str | None,
    port: int | None,
    data: str | None,
    insecure: bool,
    mode: str,
    workers: int,
    concurrency: int | None,
) -> None:
    """Run everything on this machine, in the foreground, until Ctrl-C."""
    from dispatcher.cli.up import run_all

    environ = _environ(
        EVERWARM_HOST=host,
        EVERWARM_PORT=port,
        EVERWARM_DATA=data,
        EVERWARM_INSECURE=insecure,
        EVERWARM_CONCURRENCY=concurrency,
        LAMBDA_EXECUTOR=None if mode == "auto" else mode,
    )
    sys.exit(run_all(environ, workers))


@main.command("dispatcher")
@_HOST
@_PORT
@_DATA
@_INSECURE
def _dispatcher(host: str | None, port: int | None, data: str | None, insecure: bool) -> None:
    """Run the front end alone; needs EVERWARM_REDIS_URL."""
    from dispatcher.cli.part import run_dispatcher

    run_dispatcher(_environ(EVERWARM_HOST=host, EVERWARM_PORT=port, EVERWARM_DATA=data, EVERWARM_INSECURE=insecure))


@main.command("worker")
@click.option("--mode", help="local, docker or docker-reuse.")
@click.option("--concurrency", type=click.IntRange(1, 1024), help="Invocations that run at a time.")
@_DATA
def _worker(mode: str | None, concurrency: int | None, data: str | None) -> None:
    """Run a worker of one mode alone; needs EVERWARM_REDIS_URL."""
    from dispatcher.cli.part import run_worker

    run_worker(_environ(EVERWARM_MODE=mode, EVERWARM_CONCURRENCY=concurrency, EVERWARM_DATA=data))


@main.command("ps")
@_ENDPOINT
@_JSON
def _ps(endpoint: str | None, as_json: bool) -> None:
    """Show the warm environments."""
    from dispatcher.cli.client import Server
    from dispatcher.cli.show import environments

    environments(Server.of(_environ(EVERWARM_ENDPOINT=endpoint)), as_json=as_json)


@main.command("logs")
@_ENDPOINT
@click.argument("function")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on, until Ctrl-C.")
def _logs(endpoint: str | None, function: str, follow: bool) -> None:
    """Show what a function has logged."""
    from dispatcher.cli.client import Server
    from dispatcher.cli.show import function_log

    function_log(Server.of(_environ(EVERWARM_ENDPOINT=endpoint)), function, follow=follow)


@main.group("invocations")
def _invocations() -> None:
    """See and cancel asynchronous invocations."""


def _filters(command: Callable[..., None]) -> Callable[..., None]:
    """The options that choose events, as one keyword each."""
    for name, text in reversed(
        (
            ("--function", "Name of the function."),
            ("--account", "Account of the function (000000000000)."),
            ("--region", "Region of the function (us-east-1)."),
            ("--state", "queued, fed, succeeded, failed or cancelled."),
            ("--since", "Accepted since: a time such as 2026-01-31T12:00:00Z, or how long ago: 15m, 2h, 7d."),
            ("--until", "Accepted before."),
            ("--error", "Type of the error."),
            ("--origin", "What put it here, such as replay:ID; replay:* is all that begins so."),
            ("--lane", "event or replay."),
        )
    ):
        command = click.option(name, help=text)(command)
    return command


@_invocations.command("get")
@_ENDPOINT
@_JSON
@click.argument("request_id")
def _invocations_get(endpoint: str | None, request_id: str, as_json: bool) -> None:
    """Show everything about one: its attempts, errors, logs and result."""
    from dispatcher.cli.client import Server
    from dispatcher.cli.invocations import show_event

    show_event(Server.of(_environ(EVERWARM_ENDPOINT=endpoint)), request_id, as_json=as_json)


@_invocations.command("list")
@_ENDPOINT
@_JSON
@_filters
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="Show no more than that.")
def _invocations_list(endpoint: str | None, as_json: bool, limit: int, **filters: str | None) -> None:
    """Show the newest."""
    from dispatcher.cli.client import Server
    from dispatcher.cli.invocations import show_events

    show_events(Server.of(_environ(EVERWARM_ENDPOINT=endpoint)), filters, limit, as_json=as_json)


@_invocations.command("cancel")
@_ENDPOINT
@_JSON
@_filters
@click.option("--all", "everything", is_flag=True, help="All that have not ended.")
@click.argument("request_id", required=False)
def _invocations_cancel(
    endpoint: str | None, as_json: bool, request_id: str | None, everything: bool, **filters: str | None
) -> None:
    """Cancel one by its request id, or all that match; running ones are killed, and nothing follows."""
    if (request_id is not None) + everything + any(filters.values()) != 1:
        raise click.UsageError("name a REQUEST_ID, or filters, or --all")
    from dispatcher.cli.client import Server
    from dispatcher.cli.invocations import cancel_event, cancel_events

    server = Server.of(_environ(EVERWARM_ENDPOINT=endpoint))
    if request_id is not None:
        cancel_event(server, request_id, as_json=as_json)
    else:
        cancel_events(server, filters, as_json=as_json)


@main.command("doctor")
@_JSON
def _doctor(as_json: bool) -> None:
    """Look at this machine: interpreters, Redis, Docker, the default mode and why, every setting."""
    from dispatcher.cli.doctor import run_doctor

    sys.exit(run_doctor(dict(os.environ), as_json=as_json))


_REGISTRY = click.option(
    "--registry",
    envvar="LAMBDA_CONTAINER_REGISTRY",
    default="public.ecr.aws/lambda",
    show_default=True,
    help="What the images' names begin with.",
)


@main.group("images")
def _images() -> None:
    """Build the runtime images of the docker modes, where AWS's can't be pulled."""


@_images.command("build")
@_REGISTRY
@click.argument("runtime", nargs=-1)
def _images_build(registry: str, runtime: tuple[str, ...]) -> None:
    """Build the images of these runtimes, by default of all in `everwarm images list`."""
    from dispatcher.cli.images import build_images

    sys.exit(build_images(registry, runtime))


@_images.command("list")
@_REGISTRY
@_JSON
def _images_list(registry: str, as_json: bool) -> None:
    """Show the runtimes whose images can be built, and which are there."""
    from dispatcher.cli.images import show_images

    show_images(registry, as_json=as_json)


@main.command("demo")
def _demo() -> None:
    """Start everything, run the sample functions, show what they answer and how long it took, and clean up."""
    from dispatcher.cli.demo import run_demo

    sys.exit(run_demo(dict(os.environ)))
