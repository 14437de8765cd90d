"""What is Everwarm's own below ``/_everwarm/``: pages, invocations, metrics."""
