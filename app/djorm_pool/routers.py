"""Reads from other nodes of a cluster: the alias `replica` leads to the database of `default`.

DATABASE_ROUTERS = ["djorm_pool.routers.ReplicaRouter"], and in the code what may be a moment old:
Entry.objects.using(replica()).
"""

from __future__ import annotations

from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections

REPLICA = "replica"


def replica() -> str:
    """`replica` where DATABASES has it, else `default`: the same code runs where there is one server only."""
    return REPLICA if REPLICA in connections else DEFAULT_DB_ALIAS


class ReplicaRouter:
    """Only what asks for it is read from `replica`, and what was read there is saved in `default`."""

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        state = getattr(hints.get("instance"), "_state", None)
        return DEFAULT_DB_ALIAS if state is not None and state.db == REPLICA else None

    def allow_relation(self, one: Any, other: Any, **hints: Any) -> bool | None:
        same = {one._state.db, other._state.db} <= {DEFAULT_DB_ALIAS, REPLICA}
        return True if same else None

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        return False if db == REPLICA else None
