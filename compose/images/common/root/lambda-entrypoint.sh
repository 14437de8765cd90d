#!/bin/sh
# As in AWS's base images: the handler is the only argument, and the runtime speaks to AWS_LAMBDA_RUNTIME_API.
if [ $# -ne 1 ]; then
  echo "entrypoint requires the handler name to be the first argument" >&2
  exit 142
fi
if [ -z "${AWS_LAMBDA_RUNTIME_API:-}" ]; then
  echo "AWS_LAMBDA_RUNTIME_API must be set: this image has no emulator of its own" >&2
  exit 1
fi
export _HANDLER="$1"
exec /var/runtime/bootstrap
