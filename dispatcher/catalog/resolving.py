"""Resolving a name and a qualifier to what a worker needs, and remembering the answer.

A write of this process to a function drops what is remembered of it. On PostgreSQL another dispatcher may write too, so an
entry there lives a second at most. The generation closes the race between a read under way and a write: an answer read
before a write is not remembered after it.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import Connection

from dispatcher.catalog import event_configs
from dispatcher.catalog import tags as tag_store
from dispatcher.catalog.lookups import find_alias, find_version, get_function, not_found
from dispatcher.catalog.rows import MODE_TAG, Alias, Function, FunctionKey, Version, is_version, version_number
from dispatcher.wire.arn import LATEST
from workers.contract.messages import MODES, FunctionSpec, Mode

#: How long an entry lives when other dispatchers write to the same database.
SHARED_TTL_S: Final = 1.0
_MAX_FUNCTIONS: Final = 10_000


@dataclass(frozen=True, slots=True)
class EventConfig:
    """How asynchronous invocations go on: AWS's defaults, or what the qualifier that was called has of its own."""

    maximum_retries: int = 2
    maximum_age_s: int = 21_600
    on_success: str = ""
    """ARN; empty when there is none, as in the next."""
    on_failure: str = ""
    dead_letter: str = ""
    """ARN from the version's own configuration; empty when there is none."""


@dataclass(frozen=True, slots=True)
class Target:
    """What one call of a function runs."""

    spec: FunctionSpec
    spec_raw: bytes
    """``spec`` as msgpack."""
    executed_version: str
    invoked_arn: str
    """With the qualifier that was called, when one was."""
    reserved_concurrency: int | None
    state: str
    """``Pending``, ``Active`` or ``Failed``."""
    state_reason: str
    mode: Mode | None
    """The mode that the tag ``everwarm:mode`` picks; None without the tag."""
    code_sha256: str
    """Names the zip for :meth:`dispatcher.code.store.CodeStore.signed_path`; empty with hot reload and images."""
    event_config: EventConfig
    """The configuration is not in ``spec``, because changing it does not change what runs."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The main target of a qualifier, and the one that an alias gives a part of the calls."""

    main: Target
    additional: Target | None = None
    additional_weight: float = 0.0

    def pick(self, random: Callable[[], float]) -> Target:
        """The target of one call, picked by ``random()``, which answers a number in [0, 1)."""
        if self.additional is not None and random() < self.additional_weight:
            return self.additional
        return self.main


class Cache:
    """Resolutions in memory. Reading is done on the event loop; :meth:`forget` may be called from any thread."""

    def __init__(self, ttl_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: dict[FunctionKey, dict[str | None, tuple[float, Resolution]]] = {}
        self.generation = 0

    def get(self, key: FunctionKey, qualifier: str | None) -> Resolution | None:
        """What is remembered and still valid, or None."""
        found = self._entries.get(key)
        entry = found.get(qualifier) if found is not None else None
        if entry is None or (self._ttl_s is not None and self._clock() - entry[0] > self._ttl_s):
            return None
        return entry[1]

    def put(self, key: FunctionKey, qualifier: str | None, resolution: Resolution, generation: int) -> None:
        """Remember an answer whose reading began at ``generation``."""
        if generation != self.generation:
            return
        if len(self._entries) >= _MAX_FUNCTIONS:
            self._entries.clear()
        self._entries.setdefault(key, {})[qualifier] = (self._clock(), resolution)
        if generation != self.generation:
            # A write was committed between the first look and the entry, and its forget may have come before the entry.
            self._entries.pop(key, None)

    def forget(self, key: FunctionKey) -> None:
        """Drop what is remembered of a function."""
        self.generation += 1
        self._entries.pop(key, None)


def resolve(connection: Connection, key: FunctionKey, qualifier: str | None) -> Resolution:
    """What a call of ``key`` and ``qualifier`` runs.

    Raises ``ResourceNotFoundException`` with the ARN as Invoke words it, which always has a qualifier.
    """
    asked = qualifier or LATEST
    function = get_function(connection, key, qualifier=asked)
    mode = _mode(connection, function)
    if is_version(asked):
        return Resolution(_target(connection, function, version_number(asked), qualifier, mode))
    alias = find_alias(connection, function, asked)
    if alias is None:
        raise not_found(key, asked)
    return _through(connection, function, alias, mode)


def _through(connection: Connection, function: Function, alias: Alias, mode: Mode | None) -> Resolution:
    main = _target(connection, function, alias.version, alias.name, mode)
    if alias.additional_version is None:
        return Resolution(main)
    additional = _target(connection, function, alias.additional_version, alias.name, mode)
    return Resolution(main, additional, alias.additional_weight or 0.0)


def _target(
    connection: Connection, function: Function, number: int, qualifier: str | None, mode: Mode | None
) -> Target:
    version = find_version(connection, function, number)
    if version is None:
        raise not_found(function.key, qualifier or LATEST)
    spec = spec_of(version)
    return Target(
        spec=spec,
        spec_raw=msgspec.msgpack.encode(spec),
        executed_version=version.name,
        invoked_arn=function.key.arn(qualifier),
        reserved_concurrency=function.reserved_concurrency,
        state=version.state,
        state_reason=version.state_reason or "",
        mode=mode,
        code_sha256=spec.code_sha256,
        event_config=_event_config(connection, function, version, qualifier),
    )


def _event_config(connection: Connection, function: Function, version: Version, qualifier: str | None) -> EventConfig:
    """The configuration of what was called; an alias without one has the defaults, and not its version's."""
    dead_letter = str((version.config.get("DeadLetterConfig") or {}).get("TargetArn") or "")
    default = EventConfig(dead_letter=dead_letter)
    found = event_configs.find_config(connection, function, qualifier)
    if found is None:
        return default
    return EventConfig(
        maximum_retries=default.maximum_retries if found.maximum_retries is None else found.maximum_retries,
        maximum_age_s=default.maximum_age_s if found.maximum_age_s is None else found.maximum_age_s,
        on_success=found.on_success,
        on_failure=found.on_failure,
        dead_letter=dead_letter,
    )


def _mode(connection: Connection, function: Function) -> Mode | None:
    found = tag_store.tags_of(connection, function).get(MODE_TAG)
    return next((mode for mode in MODES if mode == found), None)


def spec_of(version: Version) -> FunctionSpec:
    """The snapshot that a worker gets; ``revision`` is the hash over all the rest."""
    config = version.config
    variables: dict[str, str] = config.get("Environment", {}).get("Variables", {})
    image_config = config.get("ImageConfig") or {}
    zipped = not (version.code.hot_reload_path or version.code.image_uri)
    spec = FunctionSpec(
        account=version.key.account,
        region=version.key.region,
        function=version.key.name,
        version=version.name,
        runtime=config.get("Runtime", ""),
        handler=config.get("Handler", ""),
        timeout_s=config["Timeout"],
        memory_mb=config["MemorySize"],
        ephemeral_mb=config["EphemeralStorage"]["Size"],
        environment=dict(sorted(variables.items())),
        code_sha256=version.code.sha256 if zipped else "",
        hot_reload_path=version.code.hot_reload_path,
        architecture=config["Architectures"][0],
        package_type=config["PackageType"],
        image_uri=version.code.image_uri,
        image_id=f"sha256:{version.code.sha256}" if version.code.image_uri else "",
        entry_point=tuple(image_config.get("EntryPoint") or ()),
        command=tuple(image_config.get("Command") or ()),
        working_directory=image_config.get("WorkingDirectory") or "",
        log_group=config["LoggingConfig"]["LogGroup"],
        revision="",
    )
    return msgspec.structs.replace(spec, revision=revision_of(spec))


def revision_of(spec: FunctionSpec) -> str:
    """The first 32 hex digits of the SHA-256 over the spec without its revision, as msgpack."""
    return hashlib.sha256(msgspec.msgpack.encode(msgspec.structs.replace(spec, revision=""))).hexdigest()[:32]
