"""The enqueueing front end: it speaks AWS's Lambda API and turns every invocation into a Celery task."""
