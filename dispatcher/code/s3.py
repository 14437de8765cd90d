"""Zips from S3: any endpoint that speaks it, or AWS itself when that is allowed.

Credentials come from the settings. Profiles, instance roles and the ``AWS_*`` variables are only read with
``EVERWARM_REAL_AWS=1`` and no endpoint of one's own.
"""

import functools
import os
import tempfile
from typing import IO, Any, Final

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from dispatcher.settings import DispatcherSettings
from dispatcher.wire.errors import AwsError

_CHUNK: Final = 1 << 20
_IN_MEMORY: Final = 8 << 20
_CONFIG: Final = Config(
    connect_timeout=3,
    read_timeout=15,
    retries={"total_max_attempts": 2},
    s3={"addressing_style": "path"},
    response_checksum_validation="when_required",
    request_checksum_calculation="when_required",
)
#: botocore's session variables that make it look at files and profiles, pointed at nothing.
NO_PROFILES: Final[dict[str, Any]] = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}


def fetch(settings: DispatcherSettings, bucket: str, key: str, version: str | None) -> IO[bytes]:
    """The object's bytes in a temporary file that is gone when closed. Blocks; raises AWS's errors."""
    client = _client(settings)
    wanted = {"VersionId": version} if version else {}
    try:
        answer = client.get_object(Bucket=bucket, Key=key, **wanted)
        return _spool(answer["Body"], settings.code_unzipped_bytes)
    except ClientError as error:
        raise _refusal(error, bucket, key) from error
    except (BotoCoreError, OSError) as error:
        raise AwsError(
            "InvalidParameterValueException", f"Error occurred while GetObject. S3 does not answer: {error}"
        ) from error


def _spool(body: Any, limit: int) -> IO[bytes]:
    file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115  closed by the caller
    try:
        while chunk := body.read(_CHUNK):
            if file.tell() + len(chunk) > limit:
                raise AwsError("InvalidParameterValueException", f"Unzipped size must be smaller than {limit} bytes")
            file.write(chunk)
    except BaseException:
        file.close()
        raise
    finally:
        body.close()
    return file


def _client(settings: DispatcherSettings) -> Any:
    if settings.s3_endpoint:
        return _own_client(settings.s3_endpoint, settings.s3_access_key, settings.s3_secret_key, settings.s3_region)
    if settings.real_aws:
        return _aws_client()
    raise AwsError(
        "InvalidParameterValueException",
        "This server has no S3: set EVERWARM_S3_ENDPOINT to an endpoint that speaks S3, or upload the code as ZipFile.",
    )


@functools.lru_cache(maxsize=4)
def _own_client(endpoint: str, access_key: str, secret_key: str, region: str) -> Any:
    session = boto3.Session(
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name=region,
        botocore_session=botocore.session.Session(session_vars=NO_PROFILES),
    )
    return session.client("s3", endpoint_url=endpoint, config=_CONFIG)


@functools.lru_cache(maxsize=1)
def _aws_client() -> Any:
    return boto3.Session().client("s3", config=_CONFIG)


def _refusal(error: ClientError, bucket: str, key: str) -> AwsError:
    code = error.response["Error"].get("Code", "Unknown")
    text = error.response["Error"].get("Message", "")
    if code in {"AccessDenied", "403"}:
        return AwsError(
            "AccessDeniedException",
            "Your access has been denied by S3, please make sure your request credentials have permission to GetObject "
            f"for {bucket}/{key}. S3 Error Code: {code}. S3 Error Message: {text}",
        )
    return AwsError(
        "InvalidParameterValueException",
        f"Error occurred while GetObject. S3 Error Code: {code}. S3 Error Message: {text}",
    )
