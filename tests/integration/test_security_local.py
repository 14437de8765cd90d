"""What functions of mode local can't reach when the server runs as root, each tried by a function that is told where it is."""

import json
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.services.calls import start_call, wait_until_handed_back, wait_until_idle
from tests.services.functions import SAMPLES, Functions
from tests.services.processes import look, tree
from tests.services.redis import RedisServer
from tests.services.stack import Stack
from tests.services.up import Up
from tests.services.waiting import wait_until

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(os.geteuid() != 0, reason="not as root all functions share one user: run the tests as root"),
]
DENIED = {"PermissionError", "FileNotFoundError", "ProcessLookupError", "ConnectionRefusedError"}


class Attacker:
    """A function that tries things. Each has code of its own, since equal code is kept once."""

    def __init__(self, functions: Functions, **members: Any) -> None:
        self.functions = functions
        files = {"prober.py": (SAMPLES / "python" / "prober.py").read_text(), "secret.txt": secrets.token_hex(8)}
        self.name = functions.create(files, "prober.handler", **members)

    def attempt(self, do: str, **event: Any) -> dict[str, Any]:
        """What happened."""
        answer = self.functions.invoke(self.name, {"do": do, **event})
        assert answer.error is None, answer.body
        # So that the next call has the same environment.
        wait_until_handed_back(self.functions, self.name)
        found: dict[str, Any] = answer.json
        return found

    def gets(self, do: str, **event: Any) -> Any:
        """What it got."""
        found = self.attempt(do, **event)
        assert "done" in found, found
        return found["done"]

    def is_denied(self, do: str, **event: Any) -> None:
        """It must be refused by the system."""
        found = self.attempt(do, **event)
        assert found.get("refused") in DENIED, (do, event, found)


@pytest.fixture
def functions(stack: Stack) -> Functions:
    """Functions on the shared stack, whose directory others may pass: only Everwarm's own modes protect it."""
    stack.data.chmod(0o755)
    return Functions(stack)


@pytest.fixture
def attacker(functions: Functions) -> Attacker:
    """A function that tries things."""
    return Attacker(functions)


@pytest.fixture
def victim(functions: Functions) -> Attacker:
    """Another function, with secrets of its own: a warm environment."""
    one = Attacker(functions, Environment={"Variables": {"SECRET": "victims-secret"}})
    one.gets("write", path="/tmp/victims-file")
    return one


def test_every_environment_is_a_user_of_its_own(functions: Functions, attacker: Attacker, victim: Attacker) -> None:
    one, other = attacker.gets("whoami"), victim.gets("whoami")
    assert one["uid"] != other["uid"]
    assert one["uid"] in functions.stack.uids
    assert not set(one["groups"]) & set(other["groups"])
    assert all(group in functions.stack.uids for group in one["groups"])
    status = dict(line.split(":\t", 1) for line in one["status"].splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapInh"], 16) == 0
    attacker.is_denied("become", uid=0)
    attacker.is_denied("become", uid=other["uid"])


def test_secrets_of_the_server(functions: Functions, attacker: Attacker) -> None:
    stack = functions.stack
    password_files = [path for path in (stack.data / "redis").iterdir() if path.is_file()]
    databases = [path for path in stack.data.rglob("*") if ".db" in path.name]
    assert len(password_files) >= 2
    assert databases
    for path in password_files + databases:
        attacker.is_denied("read", path=str(path))
        attacker.is_denied("write", path=str(path))
    everything = [path for path in stack.data.rglob("*") if path != stack.log]
    for path in everything:
        attacker.is_denied("listing" if path.is_dir() else "read", path=str(path))


def test_a_function_can_not_reach_redis(functions: Functions, attacker: Attacker) -> None:
    (path,) = (functions.stack.data / "redis").glob("*.sock")
    attacker.is_denied("connect", path=str(path), send="PING\r\n")


def test_a_redis_on_a_port(attacker: Attacker, tmp_path: Path) -> None:
    """Where the socket's path would be too long it listens on a port, and asks for the password."""
    redis = RedisServer(tmp_path / ("long" * 30))
    redis.start()
    try:
        port = urlsplit(redis.url).port
        assert attacker.gets("connect", port=port, send="PING\r\n").startswith("-NOAUTH")
        assert attacker.gets("connect", port=port, send="AUTH everwarm\r\n").startswith("-WRONGPASS")
    finally:
        redis.close()


def test_processes_of_the_server(functions: Functions, attacker: Attacker) -> None:
    stack = functions.stack
    password = (stack.data / "redis" / "password").read_text().strip()
    for pid in (stack.pid("dispatcher"), stack.pid("worker"), stack.redis.pid):
        for name in ("environ", "mem", "maps", "auxv"):
            attacker.is_denied("read", path=f"/proc/{pid}/{name}")
        for name in ("cwd", "root", "exe"):
            attacker.is_denied("follow", path=f"/proc/{pid}/{name}")
        attacker.is_denied("listing", path=f"/proc/{pid}/fd")
        attacker.is_denied("kill", pid=pid)
        attacker.is_denied("trace", pid=pid)
        attacker.is_denied("read_memory", pid=pid, address=4096)
        # The command line is everybody's to read, so nothing secret may be in it.
        found = attacker.attempt("read", path=f"/proc/{pid}/cmdline")
        assert password not in found.get("done", "")


def test_a_function_can_not_touch_its_own_relay(functions: Functions, attacker: Attacker) -> None:
    """The relay runs as root: the function can't touch it."""
    own = attacker.gets("whoami")["pid"]
    process = look(own)
    assert process is not None
    relay = process.parent
    for _ in range(3):
        above = look(relay)
        assert above is not None
        if above.pid == functions.stack.pid("worker"):
            break
        assert above.uid in (0, process.uid)
        if above.uid == 0:
            attacker.is_denied("trace", pid=relay)
            attacker.is_denied("kill", pid=relay, signal=9)
            attacker.is_denied("read", path=f"/proc/{relay}/environ")
            attacker.is_denied("read", path=f"/proc/{relay}/mem")
        relay = above.parent


def test_a_function_can_not_see_another_environment(attacker: Attacker, victim: Attacker) -> None:
    it = victim.gets("whoami")
    assert victim.gets("read", path=it["root"] + "/secret.txt")
    for path in (it["root"] + "/secret.txt", it["root"] + "/prober.py", it["tmp"] + "/victims-file"):
        attacker.is_denied("read", path=path)
        attacker.is_denied("write", path=path)
    for path in (it["root"], it["tmp"], str(Path(it["tmp"]).parent)):
        attacker.is_denied("listing", path=path)
    for name in ("environ", "mem", "maps"):
        attacker.is_denied("read", path=f"/proc/{it['pid']}/{name}")
    for name in ("cwd", "root"):
        attacker.is_denied("listing", path=f"/proc/{it['pid']}/{name}/")
    attacker.is_denied("listing", path=f"/proc/{it['pid']}/fd")
    attacker.is_denied("kill", pid=it["pid"])
    attacker.is_denied("trace", pid=it["pid"])
    attacker.is_denied("read_memory", pid=it["pid"], address=4096)
    assert "victims-file" not in attacker.gets("listing", path="/tmp")
    # It lives, and has what it had.
    assert victim.gets("whoami")["pid"] == it["pid"]
    assert victim.gets("listing", path="/tmp") == ["victims-file"]


def test_where_environments_are_can_not_be_listed(attacker: Attacker) -> None:
    own = attacker.gets("whoami")
    root, scratch = Path(own["root"]), Path(own["tmp"])
    attacker.is_denied("listing", path=str(root.parent))
    found = attacker.attempt("listing", path=str(scratch.parent.parent))
    assert found.get("done", [scratch.parent.name]) == [scratch.parent.name], "no other than its own"
    attacker.is_denied("write", path=str(root.parent / "new"))
    attacker.is_denied("write", path=str(root / "new"))


def test_two_environments_of_one_function_have_their_own_files(functions: Functions) -> None:
    name = functions.python("""
import os, pathlib, time
def handler(event, context):
    if event.get("look"):
        try:
            return os.listdir(event["look"])
        except OSError as error:
            return type(error).__name__
    time.sleep(event["s"])
    return [os.environ["TMPDIR"], os.getuid()]
""")
    calls = [start_call(functions, name, {"s": 4}) for _ in range(2)]
    (one, uid), (other, other_uid) = (call.result(20).json for call in calls)
    assert (one != other, uid != other_uid) == (True, True)
    wait_until_idle(functions, name, 2)
    calls = [start_call(functions, name, {"look": place, "s": 0}) for place in (one, other, one, other)]
    found = [call.result(20).json for call in calls]
    assert set(map(str, found)) <= {"[]", "PermissionError", "FileNotFoundError"}


def test_the_runtime_api_of_another(functions: Functions, attacker: Attacker, victim: Attacker) -> None:
    """It can't take another's events, answer them, or call the API in its name."""
    port = victim.gets("whoami")["port"]
    for method, path in (
        ("GET", "/2018-06-01/runtime/invocation/next"),
        ("POST", "/2018-06-01/runtime/invocation/any/response"),
        ("POST", "/2018-06-01/runtime/init/error"),
        ("POST", f"/2015-03-31/functions/{victim.name}/invocations"),
    ):
        found = attacker.attempt(
            "request", port=port, method=method, path=path, body="{}" if method == "POST" else None
        )
        assert "refused" in found or found["done"]["status"] == 403, found
    pid = victim.gets("whoami")["pid"]
    assert functions.invoke(victim.name, {"do": "whoami"}).json["done"]["pid"] == pid


def test_the_dispatcher_past_the_relay(functions: Functions, attacker: Attacker, victim: Attacker) -> None:
    port = functions.stack.port
    for path in (
        f"/2015-03-31/functions/{victim.name}",
        "/2015-03-31/functions/",
        "/_everwarm/environments",
        "/_everwarm/metrics",
    ):
        found = attacker.gets("request", port=port, path=path)
        assert found["status"] == 403, found
        assert "AWS_ENDPOINT_URL_LAMBDA" in found["body"]
    found = attacker.gets("request", port=port, method="POST", path=f"/2015-03-31/functions/{victim.name}/invocations")
    assert found["status"] == 403
    # A sender that is gone before it is looked at is refused too: no function of that name appears.
    body = json.dumps({"FunctionName": "made-by-a-function"})
    head = f"POST /2015-03-31/functions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    attacker.attempt("connect", port=port, send=head)
    assert functions.refused("made-by-a-function")[1] == 404


def test_the_victims_code_by_its_hash(functions: Functions, attacker: Attacker, victim: Attacker) -> None:
    """The code page takes signed links only, and none from functions."""
    location = functions.client.get_function(FunctionName=victim.name)["Code"]["Location"]
    path = location.removeprefix(functions.stack.endpoint)
    assert functions.stack.get(path)[0] == 200
    assert functions.stack.get(path.split("?")[0])[0] == 403
    assert attacker.gets("request", port=functions.stack.port, path=path)["status"] == 403


def test_links_do_not_lead_the_server_astray(functions: Functions, attacker: Attacker) -> None:
    """What a function leaves in its directory is removed with it, and not what it points to."""
    stack = functions.stack
    precious = stack.data / "precious"
    precious.mkdir(mode=0o700)
    (precious / "file").write_text("precious")
    tmp = attacker.gets("whoami")["tmp"]
    attacker.gets("link", path=str(precious), link=tmp + "/a-link")
    functions.configure(attacker.name, Timeout=9)
    attacker.gets("whoami")
    wait_until("the old directory is gone", lambda: not Path(tmp).exists())
    assert (precious / "file").read_text() == "precious"


@pytest.fixture
def running(up: Callable[..., Up]) -> Up:
    """``everwarm up`` as people run it, in a directory that others may pass."""
    one = up().wait_until_ready()
    one.data.chmod(0o755)
    return one


def test_everwarm_up_protects_what_it_keeps(running: Up) -> None:
    stack = Stack.__new__(Stack)
    stack.endpoint, stack.port, stack.data = running.endpoint, running.port, running.data / "data"
    stack.environ = {}
    attacker = Attacker(Functions(stack, client=running.client()))
    attacker.gets("whoami")
    data = running.data / "data"
    found = list(data.rglob("*"))
    assert any(path.name == "password" for path in found)
    assert any(path.suffix == ".db" for path in found)
    for path in [data, *found]:
        attacker.is_denied("listing" if path.is_dir() else "read", path=str(path))
    password = next(path for path in found if path.name == "password").read_text().strip()
    for process in tree([running.process.pid]):
        if process.uid == 0:
            attacker.is_denied("read", path=f"/proc/{process.pid}/environ")
            assert password not in process.command
    for path in found:
        if path.is_socket():
            attacker.is_denied("connect", path=str(path), send="PING\r\n")


def test_disk_and_processes_of_a_fork_storm(functions: Functions) -> None:
    """A function that starts processes without end harms itself: another works meanwhile."""
    storm = functions.python(
        """
import os, time
def handler(event, context):
    made = 0
    try:
        while made < 100_000:
            if os.fork() == 0:
                time.sleep(3600)
                os._exit(0)
            made += 1
    except OSError as error:
        return [made, type(error).__name__]
    return made
""",
        Timeout=20,
        MemorySize=512,
    )
    other = functions.sample("echo")
    functions.invoke(other, 1)
    began = time.monotonic()
    answer = functions.invoke(storm, {})
    assert time.monotonic() - began < 25
    assert answer.error == "Unhandled" or answer.json[1] == "BlockingIOError"
    assert functions.invoke(other, 2).body == b"2"
