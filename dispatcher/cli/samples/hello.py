"""A sample function: greets, and counts how often its environment has been used."""

from typing import Any

calls = 0


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """AWS's entry point."""
    global calls  # noqa: PLW0603 - what stays between calls is what this sample shows
    calls += 1
    print(f"call {calls} in this environment, {context.get_remaining_time_in_millis()} ms left")
    return {"greeting": f"Hello {event['name']}, from {context.function_name}", "calls": calls}
