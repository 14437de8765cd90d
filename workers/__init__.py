"""The worker pools: each is configured for one execution mode, and runs the invocations that the dispatcher published."""
