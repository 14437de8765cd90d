"""Everwarm as `compose/compose.yaml` brings it up, with docker-compose and an image built by `compose/Dockerfile`.

One test, because bringing it up takes longer than every check, and several would be spread over pytest-xdist's workers.
"""

import json
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, Self

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from mypy_boto3_lambda import LambdaClient

from tests.services.code import zip_of
from tests.services.compose import ACCOUNT, Compose
from tests.services.waiting import wait_until
from workers.engine import LABEL_WORKER

_RUNTIME: Final = "python3.13"
_PROBES: Final = """
import json, os, socket, threading, time, urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

def own_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.1", 9))
        return probe.getsockname()[0]

def connects(target):
    try:
        socket.create_connection((target[0], target[1]), 2).close()
        return True
    except OSError:
        return False

def can_read(path):
    try:
        open(path).close()
        return True
    except OSError:
        return False

def handler(event, context):
    if "sleep_s" in event:
        time.sleep(event["sleep_s"])
    if event.get("listen"):
        server = HTTPServer(("", 8000), BaseHTTPRequestHandler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    answer = {"n": event.get("n"), "pid": os.getpid(), "uid": os.getuid(), "address": own_address()}
    with ThreadPoolExecutor(64) as pool:
        targets = event.get("connect", [])
        answer["reached"] = [target for target, found in zip(targets, pool.map(connects, targets)) if found]
    answer["read"] = [path for path in event.get("read", []) if can_read(path)]
    if "call" in event:
        url = os.environ["AWS_ENDPOINT_URL_LAMBDA"] + "/2015-03-31/functions/" + event["call"] + "/invocations"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps({"n": "inner"}).encode())) as reply:
            answer["called"] = json.load(reply)["n"]
    return answer
"""


@pytest.fixture
def project() -> Iterator[Compose]:
    # Few slots, so that one worker is not enough for the load below.
    one = Compose(EVERWARM_CONCURRENCY="2")
    try:
        yield one.up()
    finally:
        one.close()


# Cold caches: three root file systems, the dependencies and Go's compiler are fetched first.
@pytest.mark.timeout(1800)
def test_a_project_from_up_to_down(project: Compose) -> None:
    client = project.client(max_pool_connections=16)
    no_part_has_more_rights_than_it_needs(project)
    redis_asks_for_its_password_and_never_evicts(project)
    callers_need_credentials(project, client)
    for mode in ("local", "docker", "docker-reuse"):
        functions_run(project, client, mode)
    functions_in_containers_reach_their_relay_and_no_part(project, client)
    local_functions_reach_neither_redis_nor_sql(project, client)
    workers_come_and_go_under_load(project, client)


def create(client: LambdaClient, name: str, mode: str | None = None) -> str:
    client.create_function(
        FunctionName=name,
        Runtime=_RUNTIME,
        Handler="index.handler",
        Role=f"arn:aws:iam::{ACCOUNT}:role/any",
        Code={"ZipFile": zip_of(index__py=_PROBES)},
        Timeout=30,
        Tags={"everwarm:mode": mode} if mode else {},
    )
    client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1})
    return name


def invoke(client: LambdaClient, name: str, **event: Any) -> dict[str, Any]:
    answer = client.invoke(FunctionName=name, Payload=json.dumps(event).encode(), LogType="Tail")
    found = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, found
    assert isinstance(found, dict)
    return found


def no_part_has_more_rights_than_it_needs(project: Compose) -> None:
    (socket,) = {
        project.inspect(one)["HostConfig"]["Binds"][0].split(":")[0] for one in project.containers("worker-docker")
    }
    for service, user in {
        "redis": "999", "postgres": "postgres", "dispatcher": "everwarm",
        "worker-local": "root", "worker-docker": "root", "worker-docker-reuse": "root",
    }.items():  # fmt: skip
        (container,) = project.containers(service)
        found = project.inspect(container)
        host = found["HostConfig"]
        assert found["Config"]["User"] == user, service
        assert host["CapDrop"] == ["ALL"], service
        assert bool(host["CapAdd"]) == (service == "worker-local"), service
        assert host["SecurityOpt"] == ["no-new-privileges:true"], service
        assert not host["Privileged"], service
        sources = {mount["Source"] for mount in found["Mounts"]}
        assert (socket in sources) == service.startswith("worker-docker"), service
        assert not [word for word in project.secrets() if word in project.processes(container)], service
    published = {
        (port, one["HostIp"])
        for container in project.containers()
        for port, bound in project.inspect(container)["NetworkSettings"]["Ports"].items()
        for one in bound or ()
    }
    assert published == {("4566/tcp", "127.0.0.1")}


def redis_asks_for_its_password_and_never_evicts(project: Compose) -> None:
    refused = project.run("exec", "-T", "-e", "REDISCLI_AUTH=", "redis", "redis-cli", "ping")
    assert "NOAUTH" in refused
    for name, value in {"maxmemory-policy": "noeviction", "appendonly": "yes", "maxmemory": str(512 << 20)}.items():
        assert project.run("exec", "-T", "redis", "redis-cli", "config", "get", name).split() == [name, value]


def callers_need_credentials(project: Compose, client: LambdaClient) -> None:
    client.list_functions()
    for key, secret in ((project.key, "wrong"), ("AKIDUNKNOWN", project.secret)):
        with pytest.raises(ClientError) as caught:
            project.client_of(key, secret).list_functions()
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    for path in ("/2015-03-31/functions/", "/_everwarm/environments"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(project.endpoint + path, timeout=10)
        assert refused.value.code == 403, path


def functions_run(project: Compose, client: LambdaClient, mode: str) -> None:
    # docker-reuse is the default.
    name = create(client, f"in-{mode}", mode if mode != "docker-reuse" else None)
    first, second = invoke(client, name, n=1), invoke(client, name, n=2)
    assert (first["n"], second["n"]) == (1, 2)
    assert invoke(client, name, call=name)["called"] == "inner"
    made = {one.labels[LABEL_WORKER].partition("-")[0] for one in project.engine.containers(project.label)}
    (worker,) = project.containers(f"worker-{mode}")
    assert (worker[:12] in made) == (mode != "local")
    assert (first["uid"] >= 100_000) == (mode == "local")


def functions_in_containers_reach_their_relay_and_no_part(project: Compose, client: LambdaClient) -> None:
    listening = invoke(client, create(client, "listens"), listen=True)["address"]
    assert invoke(client, "listens", connect=[[listening, 8000]])["reached"] == [[listening, 8000]]

    ports = {"redis": 6379, "postgres": 5432, "dispatcher": 4566}
    # All that is tried below is there: the dispatcher, which is on every network of the parts, reaches it.
    for service, port in ports.items():
        for place in project.places(service):
            connect = f"import socket; socket.create_connection(({place!r}, {port}), 5)"
            project.run("exec", "-T", "dispatcher", "/opt/everwarm/bin/python", "-c", connect)
    for mode in ("docker", "docker-reuse"):
        name = create(client, f"crosses-{mode}", mode)
        targets: list[list[Any]] = [[listening, 8000]]
        for service, port in ports.items():
            targets += [[place, port] for place in project.places(service)]
            # A network's gateway is the host, which publishes the API on its loopback only.
            targets += [[place, number] for place in project.gateways(service) for number in (port, project.port)]
        own_gateway = invoke(client, name)["address"].rpartition(".")[0] + ".1"
        targets += [[own_gateway, port] for port in (*ports.values(), project.port)]
        answer = invoke(client, name, connect=[["127.0.0.1", 9001], *targets], read=["/var/run/docker.sock"])
        assert answer["reached"] == [["127.0.0.1", 9001]], mode
        assert answer["read"] == []


def local_functions_reach_neither_redis_nor_sql(project: Compose, client: LambdaClient) -> None:
    name = create(client, "crosses-local", "local")
    targets = []
    for service, port in {"redis": 6379, "postgres": 5432}.items():
        targets += [[place, port] for place in project.places(service)]
    closed = ["/run/redis/redis.sock", "/proc/1/environ", "/var/lib/everwarm"]
    answer = invoke(client, name, connect=targets, read=[*closed, "/etc/hostname"])
    assert answer["reached"] == []
    assert answer["read"] == ["/etc/hostname"]


class Load:
    """Callers that call one function after another, until told to stop."""

    def __init__(self, client: LambdaClient, name: str, callers: int) -> None:
        self.answers: Counter[str] = Counter()
        self._client = client
        self._name = name
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]

    def _call(self) -> None:
        while not self._stop.is_set():
            try:
                word = "ok" if invoke(self._client, self._name, n=5, sleep_s=0.05)["n"] == 5 else "wrong"
            except (ClientError, BotoCoreError, AssertionError) as error:
                word = repr(error)
            with self._lock:
                self.answers[word] += 1

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, number: int) -> None:
        """Until that many more calls are answered."""
        wanted = self.answers.total() + number
        wait_until(f"{number} more calls are answered", lambda: self.answers.total() >= wanted, 60)


def workers_come_and_go_under_load(project: Compose, client: LambdaClient) -> None:
    service = "worker-docker-reuse"
    name = create(client, "loaded")

    def at_work() -> set[str]:
        return {one.labels[LABEL_WORKER].partition("-")[0] for one in project.engine.containers(project.label)}

    with Load(client, name, 8) as load:
        load.wait_for_more(20)
        project.scale(service, 3)
        three = {container[:12] for container in project.containers(service)}
        wait_until("all three workers have containers of functions", lambda: three <= at_work(), 60, every_s=0.2)
        load.wait_for_more(100)
        project.scale(service, 1)
        (last,) = (container[:12] for container in project.containers(service))
        load.wait_for_more(50)
    print(f"answers while workers came and went: {dict(load.answers)}")
    assert set(load.answers) == {"ok"}
    wait_until("the stopped workers have left no container", lambda: not (three - {last}) & at_work(), 10)
