"""What a function's container is like: pure functions from a FunctionSpec, an image and the settings.

The relay is the container's first process, as root with four capabilities: it switches to the runtime's user, kills what
that user started, and counts what lies in /tmp. The runtime has no capability and no way to one, a user id that hardly
any other environment has at the time (the kernel counts some limits by user and not by container), code that only root
could write, and its own process, file system, host name and network namespaces.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from workers.contract.messages import FunctionSpec
from workers.contract.variables import RESERVED
from workers.engine import LABEL_ENVIRONMENT, LABEL_FUNCTION, LABEL_REVISION, ContainerSpec, Image
from workers.environments.starter import FunctionFault
from workers.link.answers import FunctionIdentity, Start
from workers.runtimes.variables import credentials, log_stream, standard
from workers.settings import WorkerSettings

RELAY: Final = "/.everwarm-relay"
"""Where the relay is in every container."""
IDLE_RELAY: Final = (RELAY, "--idle")
"""The command of a container whose first process only waits, and ends when its standard input is closed."""
TASK: Final = "/var/task"
TMP: Final = "/tmp"  # noqa: S108 - the function's own, in its container
BOOTSTRAPS: Final = ("/var/task/bootstrap", "/opt/bootstrap")
ENTRYPOINT: Final = "/lambda-entrypoint.sh"
RUNTIME_API: Final = "127.0.0.1:9001"
#: AWS's memory for each CPU (Lambda developer guide, "Configure Lambda function memory").
_MB_PER_CPU: Final = 1769
#: What the relay may take of the container's memory.
_RELAY_MB: Final = 16
_PROCESSES: Final = 1024
#: Kill and switch users; see the size of files that only the runtime's user may see.
_CAPABILITIES: Final = ("KILL", "SETUID", "SETGID", "DAC_READ_SEARCH")
#: Within what a rootless engine maps, above what distributions give to people and services.
_UIDS: Final = range(20_000, 60_000)
_GID: Final = 990
#: Whichever of them the host has; the relay passes over the other.
_CGROUPS: Final = ("/sys/fs/cgroup/memory", "/sys/fs/cgroup")
_HASH_CHARACTERS: Final = 8


def user_id(environment: str) -> int:
    """The runtime's user in an environment."""
    return _UIDS[int(environment[:_HASH_CHARACTERS], 16) % len(_UIDS)]


def container_spec(
    spec: FunctionSpec,
    *,
    image: str,
    command: Sequence[str],
    labels: Mapping[str, str],
    mounts: Sequence[tuple[str, str]],
    network: str,
    settings: WorkerSettings,
    host: str,
) -> ContainerSpec:
    """The container of an environment, whose id is among the labels; ``host`` is the engine's architecture. In another's network namespace it has neither DNS, hosts nor ports of its own."""
    flags = settings.docker_flags
    own_network = not network.startswith("container:")
    cpus = spec.memory_mb / _MB_PER_CPU
    return ContainerSpec(
        image=image,
        name=f"everwarm-{spec.function[:40]}-{labels[LABEL_ENVIRONMENT][:12]}",
        command=tuple(command),
        labels={
            **flags.labels,
            **labels,
            LABEL_REVISION: spec.revision,
            LABEL_FUNCTION: f"{spec.account}:{spec.region}:{spec.function}:{spec.version}",
        },
        user=flags.user or "0:0",
        mounts=[*mounts, *flags.mounts],
        writable_mounts=flags.writable_mounts,
        network=network,
        memory_bytes=spec.memory_mb + _RELAY_MB << 20,
        cpu_shares=max(int(1024 * cpus), 2),
        cpu_quota=max(int(100_000 * cpus), 1000) if settings.cpu_quota else 0,
        pids=_PROCESSES,
        capabilities=_CAPABILITIES,
        privileged=flags.privileged,
        dns=settings.docker_dns if own_network else (),
        extra_hosts=flags.hosts if own_network else (),
        ports=flags.ports if own_network else {},
        ulimits=flags.ulimits,
        platform=platform(spec, settings, host),
        remove=settings.remove_containers,
    )


def platform(spec: FunctionSpec, settings: WorkerSettings, host: str) -> str:
    """What the engine is to run where that is not its own: the function's architecture, unless told otherwise."""
    if settings.docker_flags.platform or settings.ignore_architecture or spec.architecture == host:
        return settings.docker_flags.platform
    return "linux/arm64" if spec.architecture == "arm64" else "linux/amd64"


def start_frame(
    spec: FunctionSpec,
    environment: str,
    image: Image,
    settings: WorkerSettings,
    *,
    own_network: bool,
    limited: bool,
    worker_socket: str = "",
) -> Start:
    """What the relay is to start in the container; where the engine limits no memory (``limited``) the relay does.

    Raises :class:`FunctionFault` for an image that starts nothing.
    """
    argv, bootstraps, directory = program(spec, image)
    uid = None if settings.docker_flags.user or settings.docker_flags.privileged else user_id(environment)
    return Start(
        argv=argv,
        bootstraps=bootstraps,
        env=variables(spec, environment, image, settings),
        cwd=directory,
        uid=uid,
        gid=_GID if uid is not None else None,
        memory_mb=0 if limited else spec.memory_mb,
        memory_cgroup=_CGROUPS if limited else (),
        tmp=TMP,
        tmp_mb=spec.ephemeral_mb,
        response_limit=settings.max_payload_bytes,
        runtime_api=RUNTIME_API if own_network else "127.0.0.1:0",
        worker_socket=worker_socket,
        function=FunctionIdentity(spec.function, spec.version, spec.handler),
        api=settings.function_api != "none",
        api_env=() if settings.disable_endpoint_url else ("AWS_ENDPOINT_URL_LAMBDA",),
    )


def program(spec: FunctionSpec, image: Image) -> tuple[list[str], Sequence[str], str]:
    """Arguments, bootstraps and working directory of what the relay executes."""
    if spec.package_type == "Image":
        argv = [*(spec.entry_point or image.entrypoint), *(spec.command or image.command)]
        if not argv:
            raise FunctionFault("the image has neither ENTRYPOINT nor CMD", "Runtime.InvalidEntrypoint")
        return argv, (), spec.working_directory or image.directory
    if spec.runtime.startswith("provided"):
        return [], BOOTSTRAPS, TASK
    return [*(image.entrypoint or (ENTRYPOINT,)), spec.handler], (), TASK


def variables(spec: FunctionSpec, environment: str, image: Image, settings: WorkerSettings) -> dict[str, str]:
    """All variables of the runtime's process but those that the relay adds: the image's, AWS's, the function's own."""
    zipped = spec.package_type != "Image"
    # The base images name the host's time zone, which a function on AWS does not have.
    found = {**image.environment, **({"TZ": ":UTC"} if zipped else {}), **settings.docker_flags.environment}
    found |= credentials(spec)
    found |= standard(spec, log_stream(spec.version, environment))
    if zipped:
        found |= {"_HANDLER": spec.handler, "LAMBDA_TASK_ROOT": TASK, "LAMBDA_RUNTIME_DIR": "/var/runtime"}
        if not spec.runtime.startswith("provided"):
            found["AWS_EXECUTION_ENV"] = f"AWS_Lambda_{spec.runtime}"
    else:
        found["AWS_EXECUTION_ENV"] = "AWS_Lambda_Image"
    if settings.hostname:
        found |= {"LOCALSTACK_HOSTNAME": settings.hostname, "EVERWARM_HOSTNAME": settings.hostname}
    found.update((name, value) for name, value in spec.environment.items() if name not in RESERVED)
    return found
