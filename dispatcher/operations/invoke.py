"""Invoke: from a request to an invocation or an accepted event, and from an outcome to AWS's answer."""

import base64
import binascii
import json
from typing import Any, Final

from dispatcher import recursion_guard
from dispatcher.calls.placement import mode_of
from dispatcher.catalog.resolving import Target
from dispatcher.catalog.rows import FunctionKey
from dispatcher.ledger.accepting import NewEvent
from dispatcher.operations.call import Call
from dispatcher.operations.naming import qualified
from dispatcher.operations.registry import operation
from dispatcher.wire.errors import AwsError
from dispatcher.wire.parse import check_json
from workers.contract.messages import Invocation, Outcome

#: Bytes of the base64 text, as AWS's documentation of ClientContext has it.
_CLIENT_CONTEXT_BYTES: Final = 3583


@operation("Invoke")
async def invoke(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """Run a function and answer with what it returned; DryRun only checks that it could."""
    kind = request.get("InvocationType", "RequestResponse")
    key, qualifier = qualified(call, "InvokeFunction", request)
    services = call.services
    target = await services.catalog.resolve(key.account, key.region, key.name, qualifier)
    payload: bytes = request.get("Payload", b"")
    check_json(payload)
    client_context = _client_context(request.get("ClientContext"))
    if kind == "DryRun":
        return {"StatusCode": 204}
    _check_active(target)
    trace_id = recursion_guard.follow(call.trace_id, target.spec.arn)
    if kind == "Event":
        await _accept(call, key, qualifier, payload, trace_id)
        return {"StatusCode": 202}
    if recursion_guard.is_loop(trace_id, target.spec.arn):
        raise AwsError(recursion_guard.ERROR, recursion_guard.MESSAGE)
    outcome = await services.sync_calls.invoke(
        target,
        await services.admission.slot(target),
        mode_of(target, services.default_mode, services.fleet.modes),
        Invocation(
            request_id=call.request_id,
            lane="sync",
            invoked_arn=target.invoked_arn,
            payload=payload or b"{}",
            claim_by_ms=0,
            reply_to="",
            trace_id=trace_id,
            client_context=client_context,
        ),
        _code_url(call, target),
    )
    return _answer(outcome, tail=request.get("LogType") == "Tail")


@operation("InvokeAsync")
async def invoke_async(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """Invoke with InvocationType Event, as it was before 2014-11: without a qualifier."""
    key, qualifier = qualified(call, "InvokeAsync", request)
    target = await call.services.catalog.resolve(key.account, key.region, key.name, qualifier)
    payload: bytes = request.get("InvokeArgs", b"")
    check_json(payload)
    _check_active(target)
    await _accept(call, key, qualifier, payload, recursion_guard.follow(call.trace_id, target.spec.arn))
    return {"Status": 202}


def _check_active(target: Target) -> None:
    if target.state != "Active":
        raise AwsError(
            "ResourceConflictException",
            "The operation cannot be performed at this time. "
            f"The function is currently in the following state: {target.state}"
            + (f". {target.state_reason}" if target.state == "Failed" else ""),
        )


async def _accept(call: Call, key: FunctionKey, qualifier: str | None, payload: bytes, trace_id: str) -> None:
    """Accept an event: once this returns, the event can't be lost."""
    origin = f"function:{call.caller}" if call.caller else ""
    await call.services.ledger.accept(
        NewEvent(call.request_id, key, qualifier or "", payload or b"{}", trace_id, origin=origin)
    )


def _code_url(call: Call, target: Target) -> str:
    return call.services.code.signed_path(target.code_sha256) if target.code_sha256 else ""


def _answer(outcome: Outcome, *, tail: bool) -> dict[str, Any]:
    if outcome.kind == "system_error":
        raise AwsError(outcome.error_type, outcome.message)
    return {
        "StatusCode": 200,
        "ExecutedVersion": outcome.version,
        "FunctionError": "Unhandled" if outcome.kind == "function_error" else None,
        "LogResult": base64.b64encode(outcome.log_tail).decode() if tail else None,
        "Payload": outcome.payload,
    }


def _client_context(text: str | None) -> str:
    """The JSON document in a client context, which only the function's runtime reads."""
    if not text:
        return ""
    if len(text) > _CLIENT_CONTEXT_BYTES:
        raise AwsError(
            "InvalidRequestContentException", f"Client context must be no more than {_CLIENT_CONTEXT_BYTES} bytes"
        )
    try:
        document = base64.b64decode(text, validate=True).decode()
        json.loads(document)
    except (binascii.Error, ValueError, RecursionError):
        raise AwsError(
            "InvalidRequestContentException", "Client context must be a valid Base64-encoded JSON object."
        ) from None
    # The document becomes an HTTP header in the runtime API.
    return document if document.isascii() and "\n" not in document else json.dumps(json.loads(document))
