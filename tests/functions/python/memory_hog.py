"""Takes the event's ``mb`` of memory and touches every page of it, then answers with the number."""


def handler(event, context):
    blocks = []
    for _ in range(event["mb"]):
        blocks.append(bytearray(b"x") * 1_048_576)
    return len(blocks)
