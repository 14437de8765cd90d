"""What comes in, and who takes it: Celery's messages from the queues, and those of the worker's own mailbox.

``consumer`` is Celery's worker with the one task of ``tasks``; ``watchdog`` ends a consumer that stalls. ``mailbox``
reads what was sent to this worker alone, and ``requests`` does what it asks for.
"""
