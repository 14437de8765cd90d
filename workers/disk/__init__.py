"""What a worker has on disk, and what may touch it there: code, its run directory, user ids, removal."""
