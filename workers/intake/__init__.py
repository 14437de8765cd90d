"""What comes in: Celery's messages, the mailbox's, and what becomes of each."""
