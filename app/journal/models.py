import uuid

from django.db import models


def new_reference() -> str:
    return uuid.uuid4().hex


class Entry(models.Model):
    """One row of the article's workload."""

    created = models.DateTimeField(auto_now_add=True)
    source = models.CharField(max_length=64, blank=True)
    text = models.CharField(max_length=1000)
    # Chosen by the writer if it likes: a write repeated after a lost answer then stores one row, not two.
    reference = models.CharField(max_length=64, unique=True, default=new_reference)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "entries"

    def __str__(self) -> str:
        return f"{self.pk}: {self.text[:40]}"
