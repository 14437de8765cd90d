"""Real services for tests: Redis, PostgreSQL, and whole stacks of dispatcher and worker, as processes of their own."""
