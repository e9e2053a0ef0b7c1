"""The workload once more, from a Celery worker."""

from config.celery import app

from journal.models import Entry


@app.task
def write(text: str, source: str) -> None:
    """Store one row."""
    Entry.objects.create(text=text, source=source)
