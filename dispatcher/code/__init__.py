"""Functions' code: where it is kept, and where it is fetched from."""
