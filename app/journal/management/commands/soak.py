"""Write R rows a second for T seconds with N clients, and say how it went.

The article's own test (20 rows a second, all night), with figures. With --url the rows go through the
running site (HTTP, or a unix socket as unix:/run/NAME.sock); without, straight through this process's pool.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
import urllib.parse
import uuid
from dataclasses import dataclass, field

from django.core.management.base import BaseCommand, CommandError
from django.db import connection, connections

from journal.models import Entry

SAMPLE_EVERY = 0.2


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


@dataclass
class Tally:
    """What the clients did; one lock for all."""

    latencies: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    peak: int = 0
    samples: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wrote(self, seconds: float) -> None:
        with self.lock:
            self.latencies.append(seconds)

    def failed(self, problem: Exception) -> None:
        key = f"{type(problem).__name__}: {problem}"[:200]
        with self.lock:
            self.errors[key] = self.errors.get(key, 0) + 1

    def report(self, seconds: float) -> dict:
        rows = sorted(self.latencies)
        return {
            "rows": len(rows),
            "errors": sum(self.errors.values()),
            "error_kinds": self.errors,
            "seconds": round(seconds, 2),
            "rows_per_second": round(len(rows) / seconds, 2) if seconds else 0.0,
            "latency_ms": {
                name: round(1000 * rows[min(len(rows) - 1, int(share * len(rows)))], 2) if rows else None
                for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
            },
            "peak_server_connections": self.peak if self.samples else None,
        }


def write_here(number: int, run: str) -> None:
    """A row by this process's own pool; the connection goes back as at the end of a request."""
    try:
        Entry.objects.create(text=f"soak row {number}", source=f"soak {run}")
    finally:
        connections.close_all()


class Through:
    """A row by the running site. Connections are not kept, as an nginx before gunicorn does not keep them."""

    def __init__(self, url: str, timeout: float) -> None:
        self.timeout = timeout
        self.socket = url.removeprefix("unix:") if url.startswith("unix:") else None
        parts = urllib.parse.urlsplit(url)
        if not self.socket and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise CommandError(f"--url {url}: neither http(s)://HOST nor unix:/PATH")
        self.parts = parts

    def connection(self) -> http.client.HTTPConnection:
        if self.socket:
            return UnixConnection(self.socket, self.timeout)
        kind = http.client.HTTPSConnection if self.parts.scheme == "https" else http.client.HTTPConnection
        return kind(self.parts.hostname, self.parts.port, timeout=self.timeout)

    def __call__(self, number: int, run: str) -> None:
        body = json.dumps({"text": f"soak row {number}", "source": f"soak {run}"})
        path = "/journal/" if self.socket else self.parts.path.rstrip("/") + "/journal/"
        client = self.connection()
        try:
            client.request("POST", path, body, {"Content-Type": "application/json", "Connection": "close"})
            response = client.getresponse()
            response.read()
            if response.status != 201:
                raise RuntimeError(f"HTTP {response.status}")
        finally:
            client.close()


def threads_connected() -> int | None:
    if connection.vendor != "mysql":
        return None
    with connection.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Threads_connected'")
        return int(cursor.fetchone()[1])


def watch(tally: Tally, stop: threading.Event) -> None:
    """The server's own count, several times a second, on one connection of ours."""
    try:
        while not stop.wait(SAMPLE_EVERY):
            try:
                count = threads_connected()
            except Exception as problem:
                tally.failed(problem)
                connections.close_all()
                continue
            if count is None:
                return
            tally.peak = max(tally.peak, count)
            tally.samples += 1
    finally:
        connections.close_all()


class Command(BaseCommand):
    help = "Writes journal rows at a steady rate and reports rows, errors, latencies and server connections."

    def add_arguments(self, parser) -> None:
        parser.add_argument("--rate", type=float, default=20.0, help="rows a second, all clients (20)")
        parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
        parser.add_argument("--clients", type=int, default=8, help="writers at the same time (8)")
        parser.add_argument("--url", default=os.environ.get("SOAK_URL", ""), help="write through this site")
        parser.add_argument("--timeout", type=float, default=60.0, help="of one request, seconds (60)")
        parser.add_argument("--json", action="store_true", help="the report as JSON")

    def handle(self, *args, **options) -> None:
        rate, seconds, clients = options["rate"], options["seconds"], options["clients"]
        for name, value in (("rate", rate), ("seconds", seconds), ("clients", clients)):
            if not 0 < value < float("inf"):
                raise CommandError(f"--{name} {value}: must be more than 0")
        write = Through(options["url"], options["timeout"]) if options["url"] else write_here
        total = max(1, round(rate * seconds))
        run, tally, stop = uuid.uuid4().hex[:8], Tally(), threading.Event()
        slots = iter(range(total))
        slots_lock = threading.Lock()
        start = time.monotonic()

        def client() -> None:
            while not stop.is_set():
                with slots_lock:
                    number = next(slots, None)
                if number is None:
                    return
                due = start + number / rate
                if stop.wait(max(0.0, due - time.monotonic())):
                    return
                try:
                    write(number, run)
                except Exception as problem:
                    tally.failed(problem)
                else:
                    # From when the row was due: a client held up by a slow one before it counts as slow.
                    tally.wrote(time.monotonic() - due)

        watcher_stop = threading.Event()
        watcher = threading.Thread(target=watch, args=(tally, watcher_stop), daemon=True)
        watcher.start()
        threads = [threading.Thread(target=client, daemon=True) for _ in range(min(clients, total))]
        for thread in threads:
            thread.start()
        try:
            next_word = start + 10
            while any(thread.is_alive() for thread in threads):
                threads[0].join(0.2) if threads[0].is_alive() else time.sleep(0.05)
                if time.monotonic() > next_word:
                    next_word += 10
                    bad = sum(tally.errors.values())
                    done = len(tally.latencies) + bad
                    self.stderr.write(f"{done} of {total} rows, {bad} errors, peak {tally.peak}")
        except KeyboardInterrupt:
            stop.set()
        spent = time.monotonic() - start
        watcher_stop.set()
        watcher.join(2)
        report = tally.report(spent)
        if options["json"]:
            self.stdout.write(json.dumps(report, indent=1))
        else:
            waits = ", ".join(f"{name} {value} ms" for name, value in report["latency_ms"].items())
            self.stdout.write(
                f"{report['rows']} rows in {report['seconds']} s ({report['rows_per_second']} a second), "
                f"{report['errors']} errors; latency {waits}; "
                f"peak of server connections {report['peak_server_connections']}"
            )
            for kind, count in report["error_kinds"].items():
                self.stdout.write(f"  {count} x {kind}")
        if report["errors"]:
            raise SystemExit(1)
