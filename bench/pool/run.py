#!/usr/bin/env python3
"""The pool against its peers: same server, same run, interleaved rounds, medians and ratios.

    bench/pool/run.py [--rounds N] [--quick] [--server mysql] [--write docs/benchmarks.md]

POOL_TEST_SERVERS names the servers (see tests/pool/conftest.py). django-db-connection-pool must be installed
in this environment to be measured; without it, its rows are missing.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DATABASE = "poolbench"
PEER = "django-db-connection-pool"
BEGIN, END = "<!-- pool: written by bench/pool/run.py -->", "<!-- end of pool -->"


def measure(mode, work, parameters):
    env = {**os.environ, "PYTHONPATH": str(ROOT / "app")}
    done = subprocess.run(
        [sys.executable, str(HERE / "worker.py"), mode, work],
        input=json.dumps(parameters),
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{mode}, {work}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def rounds(modes, work, parameters, count, own=None):
    """{mode: {figure: median}} of interleaved rounds."""
    seen = {mode: [] for mode in modes}
    for number in range(count):
        for mode in modes:
            print(f"\r  {work}: round {number + 1}/{count}, {mode:30}", end="", file=sys.stderr, flush=True)
            seen[mode].append(measure(mode, work, {**parameters, **(own or {}).get(mode, {})}))
    print("\r" + " " * 70 + "\r", end="", file=sys.stderr)
    return {m: {k: statistics.median(r[k] for r in rows) for k in rows[0]} for m, rows in seen.items()}


class SlowProxy:
    """Adds a delay each way, as a network does: bytes that arrive together travel together."""

    def __init__(self, host, port, delay):
        self.target, self.delay = (host, int(port)), delay
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(self.target)
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for a, b in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(a, b), daemon=True).start()

    def _pump(self, source, sink):
        with contextlib.suppress(OSError), source, sink:
            while data := source.recv(65536):
                time.sleep(self.delay)
                sink.sendall(data)


def table(title, rows, columns, base=None, key=None):
    out = [f"### {title}", "", "| | " + " | ".join(c[0] for c in columns) + (" | ratio |" if base else " |")]
    out.append("|---|" + "---|" * (len(columns) + bool(base)))
    for mode, row in rows.items():
        cells = [c[2].format(row[c[1]]) for c in columns]
        if base:
            cells.append(f"{row[key] / rows[base][key]:.2f}")
        out.append(f"| {mode} | " + " | ".join(cells) + " |")
    return [*out, ""]


LOAD = [
    ("requests/s", "rps", "{:.0f}"),
    ("p50 ms", "p50_ms", "{:.1f}"),
    ("p99 ms", "p99_ms", "{:.1f}"),
    ("longest ms", "max_ms", "{:.0f}"),
    ("wait p50 ms", "wait_p50_ms", "{:.1f}"),
    ("longest wait ms", "wait_max_ms", "{:.0f}"),
    ("errors", "errors", "{:.0f}"),
    ("peak connections", "peak", "{:.0f}"),
]


class Goals:
    """What was aimed at, what was measured, and whether that reaches it."""

    def __init__(self):
        self.rows = []

    def add(self, what, goal, measured, met):
        self.rows.append(f"| {what} | {goal} | {measured} | {'met' if met else '**missed**'} |")

    def table(self):
        head = ["### Against the goals", "", "| work | goal | measured | |", "|---|---|---|---|"]
        return [*head, *self.rows, ""]


def servers_named():
    """POOL_TEST_SERVERS: JSON, or the name of a file that holds it."""
    given = os.environ.get("POOL_TEST_SERVERS") or "{}"
    return json.loads(given if given.lstrip().startswith("{") else Path(given).read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: to see that it runs")
    parser.add_argument("--server", default="mysql")
    parser.add_argument("--write", metavar="FILE", help="put the results between the markers in FILE")
    arguments = parser.parse_args()
    where = servers_named().get(arguments.server)
    if where is None:
        sys.exit(f"POOL_TEST_SERVERS names no {arguments.server}")
    import MySQLdb

    admin = MySQLdb.connect(
        host=where["host"], port=int(where["port"]), user=where["user"], password=where.get("password", "")
    )
    admin.query(f"CREATE DATABASE IF NOT EXISTS {DATABASE}")
    version = admin.get_server_info()
    factor = 10 if arguments.quick else 1
    peer = [PEER] if importlib.util.find_spec("dj_db_conn_pool") else []
    base = {"server": where, "server_direct": where, "database": DATABASE}
    n = arguments.rounds
    out, goals = [], Goals()

    stock = ["stock None", "stock age 0", "stock None + health"]
    rows = rounds(
        [*stock, *peer, "ours auto", "ours True", "ours statement"],
        "one_thread",
        {**base, "requests": 3000 // factor},
        n,
    )
    ratio = rows["ours auto"]["p50_us"] / rows["stock None"]["p50_us"]
    goals.add("one thread, auto", "<= 1.08 of stock None", f"{ratio:.2f}", ratio <= 1.08)
    columns = [("p50 us", "p50_us", "{:.0f}"), ("mean us", "mean_us", "{:.0f}")]
    out += table("One thread, SELECT 1 a request", rows, columns, "stock None", "p50_us")

    proxy = SlowProxy(where["host"], where["port"], 0.001)
    slow = {**base, "server": {**where, "host": "127.0.0.1", "port": proxy.port}, "requests": 300 // factor}
    rows = rounds(["stock None", *peer, "ours auto"], "one_thread", slow, n)
    ratio = rows["ours auto"]["p50_us"] / rows["stock None"]["p50_us"]
    goals.add("1 ms of latency each way", "<= 1.1 of stock None", f"{ratio:.2f}", ratio <= 1.1)
    out += table("The same, 1 ms of latency each way", rows, columns, "stock None", "p50_us")

    load = {**base, "threads": 64, "each": 200 // factor}
    rows = rounds(
        ["stock None", *peer, "ours auto", "ours statement"], "many_threads", {**load, "size": 20}, n
    )
    ours = rows["ours auto"]
    if peer:
        ratio = ours["rps"] / rows[PEER]["rps"]
        goals.add("64 threads, 20 connections", f">= 1.5 of {PEER}", f"{ratio:.2f}", ratio >= 1.5)
    goals.add("longest wait there", "< 200 ms", f"{ours['wait_max_ms']:.0f} ms", ours["wait_max_ms"] < 200)
    said = f"{ours['peak']:.0f}, {ours['errors']:.0f}"
    goals.add("peak, errors there", "20, 0", said, (ours["peak"], ours["errors"]) == (20, 0))
    out += table("64 threads x 200 requests, 20 connections", rows, LOAD, (peer or ["stock None"])[0], "rps")

    rows = rounds(
        ["stock None", *peer, "ours auto", "ours statement"],
        "many_threads",
        {**load, "each": 100 // factor, "think": 0.005, "size": 5},
        n,
    )
    ours = rows["ours statement"]
    ratio = ours["rps"] / rows["stock None"]["rps"]
    met = ratio >= 0.8 and not ours["errors"]
    said = f"{ratio:.2f}, {ours['errors']:.0f} errors, peak {ours['peak']:.0f}"
    goals.add("statement release, 64 threads on 5", ">= 0.8 of stock None on 64, no error", said, met)
    out += table("64 threads, 5 ms of other work a request, 5 connections", rows, LOAD, "stock None", "rps")

    rows = rounds(
        [*peer, "ours auto", "ours statement"], "many_threads", {**load, "size": 5, "timeout": 0.05}, n
    )
    failed = rows["ours auto"]["errors"]
    goals.add("5 connections, time-out 50 ms", "no error", f"{failed:.0f} errors", not failed)
    out += table("64 threads, 5 connections, time-out 50 ms", rows, LOAD)

    rows = rounds(
        [*peer, "ours auto"],
        "many_threads",
        # 10 ms at the server: so the threads stand in the pool's line, and not in the interpreter's
        {**base, "threads": 1000 // factor, "each": 10, "size": 20, "sql": "SELECT SLEEP(0.01)"},
        1,
    )
    ours = rows["ours auto"]
    ratio = ours["wait_max_ms"] / ours["wait_p50_ms"]
    said = f"{ratio:.1f}, {ours['errors']:.0f} errors"
    goals.add(
        "1,000 threads, 20 connections", "longest wait < 3 medians", said, ratio < 3 and not ours["errors"]
    )
    out += table("1,000 threads x 10 requests of 10 ms at the server, 20 connections", rows, LOAD)

    found = measure("ours auto", "checkout", base)
    out += [
        "### Checkout and check-in alone",
        "",
        f"ours {found['ours_us']:.1f} us, SQLAlchemy's QueuePool {found['queuepool_us']:.1f} us",
        "",
    ]
    found = measure("ours auto", "memory", {**base, "size": 50})
    out += [
        "### Memory",
        "",
        f"a pooled connection {found['bytes_a_connection_rss']:.0f} bytes (resident, with the driver's "
        f"buffers), a place in line {found['bytes_a_waiter']:.0f} bytes",
        "",
    ]
    if where.get("restart"):
        out += [
            "### Server restart under load, 8 threads",
            "",
            "| | outage s | requests | errors | errors after |",
            "|---|---|---|---|---|",
        ]
        for mode in [*peer, "ours auto"]:
            got = measure(
                mode, "restart", {**base, "size": 8, "pool": {"connect_retry": 30} if "ours" in mode else {}}
            )
            if mode != PEER:
                said = f"{got['errors']} errors, {got['errors_after']} after"
                met = got["errors"] <= 8 and not got["errors_after"]  # a thread has one statement in flight
                goals.add("restart under load", "only what is in flight fails, 8 at most", said, met)
            out.append(
                f"| {mode} | {got['outage_s']:.1f} | {got['requests']} | {got['errors']} "
                f"| {got['errors_after']} |"
            )
        out.append("")

    import django
    import sqlalchemy

    head = [
        "## The pool",
        "",
        f"Server {version}; Python {platform.python_version()}, Django {django.get_version()}, SQLAlchemy "
        f"{sqlalchemy.__version__}; {os.cpu_count()} cores shared by client and server; {n} interleaved "
        "rounds, medians. `make bench-pool` makes this page.",
        "",
    ]
    text = "\n".join(head + goals.table() + out)
    print(text)
    if arguments.write:
        path = Path(arguments.write)
        before = path.read_text() if path.exists() else "# Benchmarks\n\n"
        block = f"{BEGIN}\n{text}\n{END}"
        if BEGIN in before:
            start, stop = before.index(BEGIN), before.index(END) + len(END)
            before = before[:start] + block + before[stop:]
        else:
            before = before.rstrip() + "\n\n" + block + "\n"
        path.write_text(before)


if __name__ == "__main__":
    main()
