"""manage.py pool_status: each pooled alias's options, and how full its server is."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import connections

from djorm_pool.inspection import pooled_aliases, status


class Command(BaseCommand):
    """Pools live in the worker processes: their figures come from status() or the metrics in there.

    This command tells what a process may open, and the server's side: limits and connections right now.
    """

    help = "Show the options of each pooled alias and how many connections its server has."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--database", help="only this alias (default: every pooled one)")
        parser.add_argument("--json", action="store_true", help="for programs")

    def handle(self, *args: Any, **options: Any) -> None:
        wanted = [options["database"]] if options["database"] else list(pooled_aliases())
        servers = {alias: self.server(alias) for alias in wanted}
        found = {a: {**row, "server": servers[a]} for a, row in status().items() if a in servers}
        if options["json"]:
            self.stdout.write(json.dumps(found, indent=2, sort_keys=True))
            return
        if not found:
            self.stdout.write("No alias is pooled: see docs/pool.md.")
        for alias, row in found.items():
            limit = "no limit" if row["limit"] is None else row["limit"]
            self.stdout.write(
                f"{alias}: up to {limit} connections a process, pessimistic {row['pessimistic']!r}"
            )
            for name, value in row["options"].items():
                self.stdout.write(f"    {name} = {value!r}")
            for name, value in row["server"].items():
                self.stdout.write(f"  server: {name} = {value}")

    def server(self, alias: str) -> dict[str, Any]:
        """The server's limits, and its connections: all, and those of our account."""
        connection = connections[alias]
        with connection.cursor() as cursor:
            if connection.vendor == "mysql":
                cursor.execute(
                    "SELECT @@global.max_connections, @@session.max_user_connections, @@wait_timeout"
                )
                names = ("max_connections", "max_user_connections", "wait_timeout")
                found = dict(zip(names, cursor.fetchone(), strict=True))
                cursor.execute("SHOW GLOBAL STATUS LIKE 'Threads_connected'")
                found["threads_connected"] = int(cursor.fetchone()[1])
                cursor.execute(
                    "SELECT COUNT(*) FROM information_schema.processlist "
                    "WHERE user = SUBSTRING_INDEX(USER(), '@', 1)"
                )
                found["of_this_account"] = cursor.fetchone()[0]
            elif connection.vendor == "postgresql":
                cursor.execute(
                    "SELECT current_setting('max_connections')::int, COUNT(*), "
                    "COUNT(*) FILTER (WHERE usename = current_user) FROM pg_stat_activity"
                )
                names = ("max_connections", "threads_connected", "of_this_account")
                found = dict(zip(names, cursor.fetchone(), strict=True))
            else:
                found = {}
        connection.close()
        return found
