"""Mode ``local``: the function's code runs on the worker's own machine, one process tree per environment under a relay.

What keeps functions apart, when the worker runs as root: every environment has a user id of its own (identities),
directories that only it can read, a group that only the environments of the same code have, no new privileges, a /tmp,
/var/tmp and /dev/shm of its own where mount namespaces are permitted, and a Runtime API that serves nobody else. Not as
root all functions share the worker's user: then this mode is no boundary between them.

Everything lies below one run directory that other users can pass through but not list, and is gone with the worker; what
a killed worker left is removed by the next one.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from workers.contract.messages import FunctionSpec
from workers.disk import uids
from workers.disk.code_cache import CodeCache, CodeUnavailable, Tree
from workers.disk.run_directory import RunDirectory, place
from workers.environments.environment import Environment
from workers.environments.starter import FunctionFault, StartError
from workers.function_logs import LogBuffer, Shipper
from workers.link.answers import ApiRequest, FunctionIdentity, Start
from workers.link.loop_thread import LoopThread
from workers.modes.local.cgroups import MemoryGroups, remove_leftovers
from workers.modes.local.sandboxes import LocalSandbox, LocalSandboxes
from workers.relay.binaries import RelayMissing
from workers.runtimes.clients import install_clients
from workers.runtimes.commands import Command, InvalidEntrypoint, RuntimeUnavailable, runtime_command
from workers.runtimes.variables import credentials, log_stream, process_environment
from workers.settings import WorkerSettings

#: Processes and threads of an environment, as on AWS.
PROCESSES: Final = 1024


@dataclass(slots=True)
class _Resources:
    """What an environment has as long as it lives."""

    tree: Tree
    sandbox: LocalSandbox | None = None


class LocalStarter:
    """Starts environments as children of this process."""

    def __init__(
        self,
        settings: WorkerSettings,
        loop: LoopThread,
        shipper: Shipper,
        on_api: Callable[[Environment, ApiRequest], None],
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._shipper = shipper
        self._uids = settings.local_uids if os.geteuid() == 0 else None
        if self._uids is not None:
            uids.remove_leftovers()
        self._run = RunDirectory(place(settings.data_dir), remove_leftovers)
        self._memory = MemoryGroups(self._run.path)
        sandboxes = self._run.path / "environments"
        sandboxes.mkdir(mode=0o711)
        code = self._run.path / "code"
        code.mkdir(mode=0o711)
        self._code = CodeCache(code, self._uids)
        self._clients = install_clients(self._run.path / "clients")
        self._sandboxes = LocalSandboxes(sandboxes, self._uids, loop, self._memory, (self._clients, code), on_api)
        self._resources: dict[str, _Resources] = {}

    single_use = False
    hand_back_s = 0.01

    @property
    def directory(self) -> Path:
        """The worker's own directory, gone with it."""
        return self._run.path

    def prepare(self, spec: FunctionSpec, code_url: str) -> str:  # noqa: ARG002 - as every starter's
        """Do nothing: the zip was checked when it was accepted."""
        return ""

    def start(self, environment: Environment, code_url: str) -> None:
        """Take a sandbox and send its relay START. Raises :class:`StartError`, and leaves nothing behind then."""
        try:
            self._start(environment, code_url)
        except (OSError, uids.NoIdentity, RelayMissing) as error:
            self.destroy(environment)
            raise StartError(f"The function's environment could not be made: {error}") from error
        except BaseException:
            self.destroy(environment)
            raise

    def _start(self, environment: Environment, code_url: str) -> None:
        spec = environment.spec
        tree = self._tree(spec, code_url)
        resources = self._resources[environment.id] = _Resources(tree)
        command = self._command(spec, tree)
        sandbox = resources.sandbox = self._sandboxes.take(tree.path)
        relay = sandbox.relay
        sandbox.attach_to(
            environment, LogBuffer(self._shipper, spec, relay, self._loop, self._settings.truncate_stdout)
        )
        identity = sandbox.identity
        gid = tree.gid if tree.gid is not None else (identity.uid if identity else None)
        start = Start(
            argv=command.argv,
            env=self._variables(environment, command, tree, sandbox.scratch),
            cwd=str(tree.path),
            uid=identity.uid if identity else None,
            gid=gid if identity else None,
            memory_mb=spec.memory_mb,
            memory_cgroup=self._sandboxes.limit(sandbox, spec.memory_mb),
            response_limit=self._settings.max_payload_bytes,
            check_peer_uid=identity is not None,
            process_limit=PROCESSES if identity else 0,
            tmp=str(sandbox.scratch),
            tmp_mb=spec.ephemeral_mb,
            function=FunctionIdentity(spec.function, spec.version, spec.handler),
            api=self._settings.function_api != "none",
            api_env=() if self._settings.disable_endpoint_url else ("AWS_ENDPOINT_URL_LAMBDA",),
        )
        self._loop.call(relay.link.start, start)

    def activate(self, environment: Environment) -> Callable[[], bool]:
        """Ask nothing: the end of a process is always heard of."""
        return lambda: environment.usable

    def after_invocation(self, environment: Environment, left_s: float) -> bool:
        """Whether the runtime asks for the next event in time."""
        return environment.wait_idle(left_s)

    def destroy(self, environment: Environment) -> None:
        """Clear away its sandbox, and release its code, in the background."""
        resources = self._resources.pop(environment.id, None)
        if resources is not None:
            self._loop.submit(self._dispose(resources))

    async def _dispose(self, resources: "_Resources") -> None:
        try:
            if resources.sandbox is not None:
                await self._sandboxes.destroy(resources.sandbox)
        finally:
            await asyncio.get_running_loop().run_in_executor(None, self._code.release, resources.tree)

    def _tree(self, spec: FunctionSpec, code_url: str) -> Tree:
        if spec.hot_reload_path:
            path = Path(spec.hot_reload_path)
            if not path.is_dir():
                raise StartError(
                    f"The hot-reload directory {path} is not on this machine.", "InvalidParameterValueException"
                )
            return Tree(path, None)
        if spec.package_type != "Zip":
            raise StartError("Container images need a docker mode.", "InvalidRuntimeException")
        try:
            return self._code.use(spec.code_sha256, self._settings.endpoint + code_url)
        except CodeUnavailable as error:
            raise StartError(str(error)) from error

    def _command(self, spec: FunctionSpec, tree: Tree) -> Command:
        try:
            return runtime_command(
                spec,
                tree.path,
                self._settings.local_runtimes,
                clients=self._clients,
                other_user=self._uids is not None,
            )
        except InvalidEntrypoint as error:
            raise FunctionFault(str(error), error.error_type) from error
        except RuntimeUnavailable as error:
            raise StartError(str(error), "InvalidRuntimeException") from error

    def _variables(self, environment: Environment, command: Command, tree: Tree, scratch: Path) -> dict[str, str]:
        spec = environment.spec
        hostname = self._settings.hostname
        named = {"LOCALSTACK_HOSTNAME": hostname, "EVERWARM_HOSTNAME": hostname} if hostname else {}
        return {
            **process_environment(
                spec,
                command,
                tree.path,
                log_stream=log_stream(spec.version, environment.id),
                credentials=credentials(spec),
            ),
            **named,
            "HOME": str(scratch),
            "TMPDIR": str(scratch),
        }

    def ready(self, knows: Callable[[str], bool]) -> None:
        """Do nothing: one sandbox is made in advance anyway."""

    def close(self) -> None:
        """Remove what is left; every environment was destroyed before."""
        self._sandboxes.close()
        self._loop.settle()
        self._memory.close()
        self._code.close()
        self._run.close()
