"""Answers with every field of the context."""

import os


def handler(event, context):
    client = context.client_context
    return {
        "function_name": context.function_name,
        "function_version": context.function_version,
        "invoked_function_arn": context.invoked_function_arn,
        "memory_limit_in_mb": context.memory_limit_in_mb,
        "aws_request_id": context.aws_request_id,
        "log_group_name": context.log_group_name,
        "log_stream_name": context.log_stream_name,
        "remaining_ms": context.get_remaining_time_in_millis(),
        "identity_id": context.identity.cognito_identity_id,
        "identity_pool_id": context.identity.cognito_identity_pool_id,
        "client": client
        and {
            "custom": client.custom,
            "env": client.env,
            "title": client.client and client.client.app_title,
        },
        "trace_id": os.environ.get("_X_AMZN_TRACE_ID"),
        "repr": repr(context),
    }
