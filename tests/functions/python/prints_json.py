"""Prints what looks like a result before it answers with the real one, and prints more afterwards."""

import sys


def handler(event, context):
    print('{"statusCode": 500, "body": "not the result"}')
    print("without an end of line", end="")
    print('{"on": "standard error"}', file=sys.stderr)
    return {"real": True}
