"""The runtime images keep the contract of AWS's base images."""

import json

import pytest

from tests.services import docker as services
from workers.engine import ContainerSpec, Engine
from workers.images import recipes

engine = services.engine

RUNTIMES = recipes.runtimes()
VARIABLES = {
    "LANG": "en_US.UTF-8",
    "LAMBDA_RUNTIME_DIR": "/var/runtime",
    "LAMBDA_TASK_ROOT": "/var/task",
    "LD_LIBRARY_PATH": "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
    "PATH": "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
    "TZ": ":/etc/localtime",
}
#: AWS's user for functions.
USER = "993:990"


def run(engine: Engine, runtime: str, *command: str, user: str = USER) -> tuple[int, str]:
    """Status and output of a command in the runtime's image, as functions run: with no network and no rights."""
    spec = ContainerSpec(
        services.image(runtime), "", command, {"everwarm.test": "images"}, user=user, directory="/var/task"
    )
    status, output = engine.run(spec)
    return status, output.decode(errors="replace")


def shell(engine: Engine, runtime: str, script: str) -> str:
    """Output of a script that must succeed."""
    status, output = run(engine, runtime, "/bin/sh", "-euc", script)
    assert status == 0, output
    return output


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_built_image_has_awss_settings(engine: Engine, runtime: str) -> None:
    found = engine.image(services.image(runtime))
    assert found is not None
    assert found.entrypoint == ("/lambda-entrypoint.sh",)
    assert found.command == ()
    assert found.directory == "/var/task"
    assert found.environment == VARIABLES
    assert found.labels["everwarm.recipe"] == recipes.read(runtime).digest


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_folders_that_functions_user_can_read_and_tmp_that_it_can_write(engine: Engine, runtime: str) -> None:
    script = """
        for folder in /opt /var/task /var/runtime; do test -d $folder && test -r $folder && test -x $folder; done
        test "$(stat -c %a /tmp)" = 1777
        echo written >/tmp/file && cat /tmp/file
        find /var/runtime /var/lang /lambda-entrypoint.sh ! -type l ! -perm -o=r
        test "$(id -un)" = sbx_user1051
    """
    assert shell(engine, runtime, script) == "written\n"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_entrypoint_without_an_api_says_what_it_needs(engine: Engine, runtime: str) -> None:
    status, output = run(engine, runtime, "/lambda-entrypoint.sh", "app.handler")
    assert (status, output) == (1, "AWS_LAMBDA_RUNTIME_API must be set: this image has no emulator of its own\n")


@pytest.mark.parametrize("arguments", [(), ("app.handler", "more")])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_entrypoint_takes_one_argument(engine: Engine, runtime: str, arguments: tuple[str, ...]) -> None:
    status, output = run(engine, runtime, "/lambda-entrypoint.sh", *arguments)
    assert (status, output) == (142, "entrypoint requires the handler name to be the first argument\n")


@pytest.mark.parametrize("runtime", [runtime for runtime in RUNTIMES if not runtime.startswith("provided")])
def test_the_runtime_starts_under_the_wrapper_that_the_variable_names(engine: Engine, runtime: str) -> None:
    script = """
        export AWS_LAMBDA_RUNTIME_API=127.0.0.1:1 AWS_LAMBDA_EXEC_WRAPPER=/tmp/wrapper
        printf '#!/bin/sh\\necho $_HANDLER $AWS_EXECUTION_ENV\\n"$1" --version\\n' >/tmp/wrapper
        chmod 755 /tmp/wrapper
        /lambda-entrypoint.sh app.handler
        rm /tmp/wrapper
        /lambda-entrypoint.sh app.handler 2>&1 || echo $?
    """
    lines = shell(engine, runtime, script).splitlines()
    assert lines[0] == f"app.handler AWS_Lambda_{runtime}"
    assert runtime.removesuffix(".x") in lines[1].lower().replace(" ", "").replace("v", "nodejs", 1)
    assert lines[2:] == ["/tmp/wrapper: does not exist", "127"]


@pytest.mark.parametrize("runtime", [runtime for runtime in RUNTIMES if runtime.startswith("python")])
def test_python_functions_find_what_aws_has_where_aws_has_it(engine: Engine, runtime: str) -> None:
    version = runtime.removeprefix("python")
    script = """
        cat >/tmp/app.py <<'CODE'
import json, sys, os
import awslambdaric, boto3, bz2, ctypes, decimal, lzma, sqlite3, ssl, zoneinfo
import runtime_client
here = zoneinfo.ZoneInfo("Europe/Berlin").key
print(json.dumps([sys.path[:4], os.environ["PYTHONPATH"], sys.executable, here, boto3.client("s3", "eu-west-1").meta.region_name]))
sys.stdout.flush()
os._exit(0)
CODE
        export AWS_LAMBDA_RUNTIME_API=127.0.0.1:1 LAMBDA_TASK_ROOT=/tmp
        /lambda-entrypoint.sh app.handler
    """
    search_path, exported, executable, zone, region = json.loads(shell(engine, runtime, script))
    assert search_path == ["/tmp", f"/opt/python/lib/python{version}/site-packages", "/opt/python", "/var/runtime"]
    assert exported == "/var/runtime"
    assert executable == f"/var/lang/bin/python{version}"
    assert (zone, region) == ("Europe/Berlin", "eu-west-1")


@pytest.mark.parametrize("runtime", [runtime for runtime in RUNTIMES if runtime.startswith("python")])
def test_python_s_runtime_is_compiled(engine: Engine, runtime: str) -> None:
    script = "for f in /var/runtime/awslambdaric/*.py; do ls /var/runtime/awslambdaric/__pycache__/$(basename $f .py).*.pyc; done"
    assert shell(engine, runtime, script)


@pytest.mark.parametrize("runtime", [runtime for runtime in RUNTIMES if runtime.startswith("nodejs")])
def test_node_functions_find_what_aws_has_where_aws_has_it(engine: Engine, runtime: str) -> None:
    major = runtime.removeprefix("nodejs").removesuffix(".x")
    script = """
        cat >/tmp/app.js <<'CODE'
require("/var/runtime/node_modules/aws-lambda-ric/dist/rapid-client.node");
process.stdout.write(JSON.stringify([process.env.NODE_PATH, process.execArgv, new Intl.DateTimeFormat("de").format(0)]));
process.exit(0);
CODE
        export AWS_LAMBDA_RUNTIME_API=127.0.0.1:1 LAMBDA_TASK_ROOT=/tmp AWS_LAMBDA_FUNCTION_MEMORY_SIZE=1000
        /lambda-entrypoint.sh app.handler
    """
    path, options, date = json.loads(shell(engine, runtime, script))
    assert path.split(":")[:3] == [
        f"/opt/nodejs/node{major}/node_modules", "/opt/nodejs/node_modules", "/var/runtime/node_modules",
    ]  # fmt: skip
    assert "--max-old-space-size=900" in options
    assert "--max-semi-space-size=50" in options
    assert date == "1.1.1970"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_programs_find_their_locale(engine: Engine, runtime: str) -> None:
    assert shell(engine, runtime, "locale charmap 2>&1 || true").strip() == "UTF-8"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_built_image_has_certificates(engine: Engine, runtime: str) -> None:
    assert int(shell(engine, runtime, "grep -c BEGIN /etc/ssl/certs/ca-certificates.crt")) > 50
