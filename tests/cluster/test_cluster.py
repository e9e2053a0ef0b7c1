"""The writer of a Galera cluster is killed while the real application writes: no acknowledged row is lost."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = os.environ.get("CLUSTER_INVENTORY", "")
WRITERS = 8
BACK_WITHIN = 10  # seconds without an acknowledged write that a run may show


def listed() -> dict:
    if not INVENTORY:
        raise pytest.UsageError("CLUSTER_INVENTORY is not set: run `molecule test -s galera`")
    out = subprocess.run(
        ["ansible-inventory", "-i", INVENTORY, "--list"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return json.loads(out.stdout)


def playbook(*more: str) -> subprocess.CompletedProcess:
    """The main job, without its load test: the clients of the test are the load."""
    words = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", INVENTORY, "playbook.yml", *more]
    return subprocess.run([*words, "-e", "verify_load=false"], cwd=ROOT, capture_output=True, text=True)


class Host:
    """Commands as root on a host of the inventory, over SSH."""

    def __init__(self, name: str, variables: dict) -> None:
        self.name, self.address = name, variables["ansible_host"]
        access = ROOT / ".cache" / "sandbox"
        self.words = [
            *("ssh", "-i", str(access / "id_ed25519"), "-o", f"UserKnownHostsFile={access / 'known_hosts'}"),
            *("-o", "StrictHostKeyChecking=yes", f"ansible@{self.address}", "sudo"),
        ]

    def run(self, *argv: str, text: str = "") -> subprocess.CompletedProcess:
        return subprocess.run([*self.words, shlex.join(argv)], input=text, capture_output=True, text=True)

    def must(self, *argv: str, text: str = "") -> str:
        done = self.run(*argv, text=text)
        assert done.returncode == 0, f"{argv[0]} on {self.address}: {done.stdout}{done.stderr}"
        return done.stdout

    def sql(self, statement: str) -> list[list[str]]:
        out = self.must("mariadb", "--batch", "--skip-column-names", text=statement)
        return [line.split("\t") for line in out.splitlines()]

    def wsrep(self) -> dict[str, str]:
        done = self.run("mariadb", "--batch", "--skip-column-names", text="SHOW GLOBAL STATUS LIKE 'wsrep%'")
        return dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)


@pytest.fixture(scope="session")
def cluster():
    found = listed()
    hosts = {name: Host(name, variables) for name, variables in found["_meta"]["hostvars"].items()}
    groups = {name: [hosts[host] for host in found[name]["hosts"]] for name in ("database", "web")}
    return groups


def healthy(nodes) -> bool:
    states = [node.wsrep() for node in nodes]
    return all(
        state.get("wsrep_local_state_comment") == "Synced"
        and state.get("wsrep_cluster_status") == "Primary"
        and state.get("wsrep_cluster_size") == str(len(nodes))
        for state in states
    )


def wait_for(condition, seconds=120):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"not within {seconds} s"
        time.sleep(0.2)
    return time.monotonic() - start


def writer(nodes):
    """Where the application's sessions are: HAProxy sends all of them to one node."""
    counts = {
        node: int(node.sql("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'")[0][0])
        for node in nodes
    }
    return [node for node, count in counts.items() if count]


class Load:
    """Clients that write through the site, request after request, and remember what was acknowledged."""

    def __init__(self, address: str) -> None:
        self.address, self.stop = address, threading.Event()
        self.mark = secrets.token_hex(6)
        self.acknowledged: dict[str, float] = {}
        self.failed: list[tuple[float, str]] = []
        self.slowest = 0.0
        self.threads = [threading.Thread(target=self.write, args=(n,)) for n in range(WRITERS)]

    def write(self, number: int) -> None:
        count = 0
        while not self.stop.is_set():
            count += 1
            reference = f"{self.mark}-{number}-{count}"
            body = json.dumps({"text": "x", "source": self.mark, "reference": reference})
            start = time.monotonic()
            try:
                site = http.client.HTTPConnection(self.address, timeout=60)
                site.request("POST", "/journal/", body, {"Content-Type": "application/json"})
                answer = site.getresponse()
                said = answer.read()
                site.close()
                if answer.status == 201:
                    self.acknowledged[reference] = time.monotonic()
                else:
                    self.failed.append((start, f"{answer.status} {said[:80]!r}"))
            except OSError as error:
                self.failed.append((start, str(error)))
            self.slowest = max(self.slowest, time.monotonic() - start)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        wait_for(lambda: len(self.acknowledged) > 50)
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(90)

    def longest_gap(self, after: float) -> float:
        times = sorted(when for when in self.acknowledged.values() if when >= after)
        return max(b - a for a, b in zip([after, *times], times, strict=False))

    def lost(self, node: Host) -> set[str]:
        rows = node.sql(f"SELECT reference FROM journal.journal_entry WHERE source = '{self.mark}'")
        return set(self.acknowledged) - {row[0] for row in rows}


def report(what: str, load: Load, hit: float) -> None:
    print(
        f"\n{what}: {len(load.acknowledged)} rows acknowledged, longest time without one "
        f"{load.longest_gap(hit):.1f} s, slowest request {load.slowest:.1f} s, failed {len(load.failed)} of "
        f"{WRITERS} clients {sorted({text for _, text in load.failed})[:3]}"
    )


def test_one_cluster_one_writer(cluster):
    nodes = cluster["database"]
    assert healthy(nodes)
    assert len({node.wsrep()["wsrep_cluster_state_uuid"] for node in nodes}) == 1
    with Load(cluster["web"][0].address):
        assert [node.name for node in writer(nodes)] == [nodes[0].name]


def test_between_nodes_everything_is_encrypted(cluster):
    for node in cluster["database"]:
        options = node.sql("SELECT @@wsrep_provider_options")[0][0]
        assert "socket.ssl = YES" in options, options


def test_the_writer_dies_under_load(cluster):
    nodes = cluster["database"]
    first = nodes[0]
    wait_for(lambda: healthy(nodes))
    with Load(cluster["web"][0].address) as load:
        hit = time.monotonic()
        first.must("systemctl", "kill", "--signal=KILL", "mariadb")
        wait_for(lambda: writer(nodes[1:]))
        assert writer(nodes[1:]) == [nodes[1]]
        back = wait_for(lambda: healthy(nodes))
        wait_for(lambda: writer(nodes) == [first])
        later = len(load.acknowledged)
        wait_for(lambda: len(load.acknowledged) > later + 50)
    report(f"kill -9 of the writer, back in the cluster after {back:.1f} s", load, hit)
    assert healthy(nodes)
    for node in nodes:
        assert load.lost(node) == set(), node.name
    assert load.longest_gap(hit) < BACK_WITHIN
    assert len(load.failed) <= 2 * WRITERS  # in flight when the writer went, and when it came back


def test_the_writer_is_stopped_politely_under_load(cluster):
    nodes = cluster["database"]
    first = nodes[0]
    wait_for(lambda: healthy(nodes))
    with Load(cluster["web"][0].address) as load:
        hit = time.monotonic()
        first.must("systemctl", "restart", "mariadb")
        wait_for(lambda: healthy(nodes))
        wait_for(lambda: writer(nodes) == [first])
        later = len(load.acknowledged)
        wait_for(lambda: len(load.acknowledged) > later + 50)
    report("polite restart of the writer", load, hit)
    for node in nodes:
        assert load.lost(node) == set(), node.name
    assert load.longest_gap(hit) < BACK_WITHIN
    assert len(load.failed) <= 2 * WRITERS  # in flight when the writer went, and when it came back


def test_a_change_that_needs_restarts_goes_from_node_to_node_under_load(cluster):
    nodes = cluster["database"]
    wait_for(lambda: healthy(nodes))
    started = {node: node.sql("SELECT @@back_log")[0][0] for node in nodes}
    assert set(started.values()) != {"321"}
    least = []
    done = threading.Event()

    def watch():
        while not done.wait(0.3):
            least.append(sum(node.wsrep().get("wsrep_ready") == "ON" for node in nodes))

    watcher = threading.Thread(target=watch)
    with Load(cluster["web"][0].address) as load:
        watcher.start()
        hit = time.monotonic()
        out = playbook("-e", "mysql_back_log=321")
        done.set()
        watcher.join()
        wait_for(lambda: writer(nodes) == [nodes[0]])
    report(f"a change with restarts, {time.monotonic() - hit:.0f} s", load, hit)
    assert out.returncode == 0, out.stdout[-3000:]
    assert {node.sql("SELECT @@back_log")[0][0] for node in nodes} == {"321"}
    assert min(least) == len(nodes) - 1, "never two nodes at once"
    for node in nodes:
        assert load.lost(node) == set(), node.name
    assert load.longest_gap(hit) < BACK_WITHIN
    assert len(load.failed) <= 2 * WRITERS


def test_a_running_cluster_is_not_taken_apart(cluster):
    done = playbook("--check", "-e", "mysql_topology=standalone", "-e", "budget_server=galera1")
    assert done.returncode != 0
    assert "this server is a node of a Galera cluster" in done.stdout, done.stdout[-3000:]
    assert healthy(cluster["database"])
