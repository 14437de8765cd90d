"""The relay: a Go program, the first process of every environment. ``FRAMES.md`` has what it says to a worker."""
