"""Reads from other nodes, while clients write: fresh within the bound, and never a failed read for lag."""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import time
from collections.abc import Iterator

import pytest
from nodes import Clients, Host, Load, healthy, listed, report, wait_for, with_sessions, writer

READERS = 4
# Until a read is elsewhere: the agent's look, the proxies' check (1 s) and the pool's; and a busy machine.
NOTICED = 3
STOPPED = (
    "SET SESSION lock_wait_timeout = 60; FLUSH TABLES WITH READ LOCK; SELECT 'stopped'; SELECT SLEEP(300);"
)

# Argument: a node. What a proxy that has just been reloaded says of it, until it has asked it.
RELOADED = """
import socket, subprocess, sys, time
def ask(what):
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect("/run/haproxy/admin.sock")
        admin.sendall(what.encode() + b"\\n")
        return admin.makefile().read()
def process():
    return next(line for line in ask("show info").splitlines() if line.startswith("Pid:"))
before, said = process(), {"check_status": "INI"}
subprocess.run(["systemctl", "reload", "haproxy"], check=True)
while process() == before:
    time.sleep(0.01)
while "INI" in said["check_status"] or not said["check_status"]:
    names, *lines = ask("show stat").lstrip("# ").splitlines()
    all = [dict(zip(names.split(","), line.split(","))) for line in lines if line]
    said = next(one for one in all if (one["pxname"], one["svname"]) == ("replicas", sys.argv[1]))
    print(said["status"])
    time.sleep(0.01)
"""


class Reads(Clients):
    """Clients that look up, on the other nodes, rows that were acknowledged longer ago than the bound."""

    def __init__(self, load: Load, bound: float) -> None:
        super().__init__(self.read, READERS)
        self.load, self.bound = load, bound
        self.found, self.missing, self.failed = 0, [], []

    def old_enough(self) -> list[str]:
        until = time.monotonic() - self.bound
        return [key for key, when in list(self.load.acknowledged.items())[-5000:] if when < until][-50:]

    def read(self, _: int) -> None:
        while not self.stop.is_set():
            known = self.old_enough()
            if not known:
                time.sleep(0.05)
                continue
            reference = random.choice(known)  # noqa: S311
            try:
                site = http.client.HTTPConnection(self.load.address, timeout=60)
                site.request("GET", f"/journal/?format=json&using=replica&reference={reference}")
                answer = site.getresponse()
                said = answer.read()
                site.close()
                if answer.status != 200:
                    self.failed.append(f"{answer.status} {said[:80]!r}")
                elif json.loads(said)["entries"]:
                    self.found += 1
                else:
                    self.missing.append(reference)
            except OSError as error:
                self.failed.append(str(error))

    def more(self, count: int = 50) -> None:
        before = self.found
        wait_for(lambda: self.found >= before + count)


class Stopped:
    """A node that takes part and applies nothing while the block lasts: it falls behind."""

    def __init__(self, node: Host) -> None:
        self.node = node

    def __enter__(self) -> None:
        if self.node.engine.client == "mariadb":  # or the others would wait for it
            self.node.sql("SET GLOBAL wsrep_desync = ON")
        words = [*self.node.words, self.node.engine.client, "--unbuffered", "--batch", "--skip-column-names"]
        self.session = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.session.stdin.write(STOPPED)
        self.session.stdin.close()
        assert self.session.stdout.readline().strip() == "stopped"

    def __exit__(self, *_) -> None:
        sleeping = "SELECT ID FROM information_schema.processlist WHERE INFO LIKE 'SELECT SLEEP(300)%'"
        for (number,) in self.node.sql(sleeping):
            self.node.sql(f"KILL {number}")
        self.session.wait(30)
        if self.node.engine.client == "mariadb":
            self.node.sql("SET GLOBAL wsrep_desync = OFF")


@pytest.fixture
def reads(cluster) -> Iterator[tuple[list[Host], Load, Reads]]:
    """(nodes, clients that write, clients that read): no row is lost, none that is old enough is missed."""
    nodes = cluster["database"]
    bound = listed()["_meta"]["hostvars"][nodes[0].name].get("mysql_cluster_replica_max_lag", 0)
    if not bound:
        pytest.skip("mysql_cluster_replica_max_lag is not set")
    wait_for(lambda: healthy(nodes))
    start = time.monotonic()
    with Load(cluster["web"][0].address) as load, Reads(load, bound + NOTICED) as read:
        read.more()
        yield nodes, load, read
    report(f"{read.found} reads, {len(read.missing)} without a row, {len(read.failed)} failed", load, start)
    assert read.missing == []
    for node in nodes:
        assert load.lost(node) == set(), node.name


def others(nodes: list[Host]) -> list[Host]:
    (one,) = writer(nodes)
    return [node for node in nodes if node is not one]


def test_reads_go_to_the_nodes_that_do_not_write(reads):
    nodes, load, read = reads
    wait_for(lambda: with_sessions(nodes, "replicas") == others(nodes))
    read.more()
    assert not read.failed and not load.failed, (read.failed, load.failed)


def test_a_session_that_reads_cannot_write(cluster):
    script = (
        "from django.db import connections; from journal.models import Entry; "
        "cursor = connections['replica'].cursor(); cursor.execute('SELECT @@transaction_read_only'); "
        "print('session:', cursor.fetchone()[0], flush=True); "
        "Entry.objects.using('replica').create(text='never')"
    )
    done = cluster["application"][0].run("/etc/django-app/manage", "shell", "-c", script)
    assert done.returncode != 0
    assert "session: 1" in done.stdout
    # of Group Replication the node itself is read-only too, and says so first
    assert "(1792, " in done.stderr or "(1290, " in done.stderr, done.stderr[-1000:]


def test_a_node_that_falls_behind_is_not_read(reads):
    nodes, load, read = reads
    late, *fit = others(nodes)
    wait_for(lambda: late in with_sessions(nodes, "replicas"))
    with Stopped(late):
        wait_for(lambda: with_sessions(nodes, "replicas") == fit)
        read.more(200)
        assert with_sessions(nodes, "replicas") == fit
    wait_for(lambda: late in with_sessions(nodes, "replicas"))
    read.more()
    assert not read.failed and not load.failed, (read.failed, load.failed)


def test_a_node_that_is_behind_is_not_read_after_a_reload_of_the_proxy(reads):
    nodes, load, read = reads
    (proxy,) = nodes[0].proxies[:1]
    version = proxy.must("haproxy", "-v").split()[2]
    if [int(part) for part in version.split(".")[:2]] < [3, 1]:
        pytest.skip(f"HAProxy {version} counts a node as up until it has asked it")
    late, *fit = others(nodes)
    with Stopped(late):
        wait_for(lambda: with_sessions(nodes, "replicas") == fit)
        said = proxy.must("timeout", "60", "python3", "-c", RELOADED, late.name).split("\n")
        assert said[0] and not [word for word in said if word.startswith("UP")], said
        read.more()
    wait_for(lambda: late in with_sessions(nodes, "replicas"))
    assert not read.failed and not load.failed, (read.failed, load.failed)


def test_where_all_others_are_behind_the_writer_is_read(reads):
    nodes, load, read = reads
    first, second = others(nodes)
    with Stopped(first), Stopped(second):
        wait_for(lambda: with_sessions(nodes, "replicas") == [])
        read.more(200)
    wait_for(lambda: with_sessions(nodes, "replicas") == [first, second])
    read.more()
    assert not read.failed and not load.failed, (read.failed, load.failed)


def test_a_node_that_is_read_dies(reads):
    nodes, load, read = reads
    struck, *fit = others(nodes)
    wait_for(lambda: struck in with_sessions(nodes, "replicas"))
    struck.must("systemctl", "kill", "--signal=KILL", struck.engine.unit)
    wait_for(lambda: with_sessions(nodes, "replicas") == fit)
    read.more(200)
    wait_for(lambda: healthy(nodes))
    wait_for(lambda: struck in with_sessions(nodes, "replicas"))
    read.more()
    assert not read.failed, read.failed  # what was under way there is read again
    assert not load.failed, load.failed


def test_a_node_that_is_read_is_stopped_politely(reads):
    nodes, load, read = reads
    struck = others(nodes)[0]
    wait_for(lambda: struck in with_sessions(nodes, "replicas"))
    struck.must("systemctl", "restart", struck.engine.unit)
    wait_for(lambda: healthy(nodes))
    read.more()
    assert not read.failed and not load.failed, (read.failed, load.failed)
