"""The nodes of a cluster, as an administrator sees them, and the load that the real application carries.

The same for both engines: what differs between them is in their classes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))
import disk  # noqa: E402

INVENTORY = os.environ.get("CLUSTER_INVENTORY", "")
WRITERS = 8
T = TypeVar("T")


def listed(inventory: str = INVENTORY) -> dict:
    if not inventory:
        raise pytest.UsageError(
            "CLUSTER_INVENTORY is not set: run `molecule test -s galera` or group_replication"
        )
    out = subprocess.run(
        ["ansible-inventory", "-i", inventory, "--list"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return json.loads(out.stdout)


def groups(inventory: str = INVENTORY) -> dict[str, list[Host]]:
    """The hosts of each part; every node knows the application hosts, whose proxies lead to it."""
    found = listed(inventory)
    hosts = {name: Host(name, variables) for name, variables in found["_meta"]["hostvars"].items()}
    parts = {
        name: [hosts[host] for host in found[name]["hosts"]] for name in ("database", "application", "web")
    }
    for node in parts["database"]:
        node.proxies = parts["application"]
    return parts


def play(playbook: str, inventory: str, *words: str, **variables) -> tuple[int, str]:
    """A playbook without its load test, for the clients are one: exit status, what it said in one line."""
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    given = json.dumps({"verify_load": False, **variables})
    done = subprocess.run(
        [program, "-i", inventory, playbook, *words, "-e", given], cwd=ROOT, capture_output=True, text=True
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


class Host:
    """Commands as root on a host of the inventory, over SSH."""

    def __init__(self, name: str, variables: dict) -> None:
        self.name, self.address = name, variables["ansible_host"]
        self.engine = ENGINES.get(variables.get("mysql_topology"))
        self.proxies: list[Host] = []
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
        out = self.must(self.engine.client, "--batch", "--skip-column-names", text=statement)
        return [line.split("\t") for line in out.splitlines()]

    def asked(self, statement: str) -> list[list[str]]:
        """[] where the server does not answer."""
        done = self.run(self.engine.client, "--batch", "--skip-column-names", text=statement)
        return [line.split("\t") for line in done.stdout.splitlines() if done.returncode == 0]


class Galera:
    client, unit = "mariadb", "mariadb"
    configuration = "/etc/mysql/mariadb.conf.d/zz-cluster.cnf"
    returns = True  # the first node writes again as soon as it can

    @staticmethod
    def status(node: Host) -> dict[str, str]:
        return dict(row for row in node.asked("SHOW GLOBAL STATUS LIKE 'wsrep%'") if len(row) == 2)

    @classmethod
    def whole(cls, node: Host, size: int) -> bool:
        now = cls.status(node)
        return (
            now.get("wsrep_local_state_comment") == "Synced"
            and now.get("wsrep_cluster_status") == "Primary"
            and now.get("wsrep_cluster_size") == str(size)
        )

    @classmethod
    def serves(cls, node: Host) -> bool:
        return cls.status(node).get("wsrep_ready") == "ON"

    @classmethod
    def name(cls, node: Host) -> str:
        return cls.status(node)["wsrep_cluster_state_uuid"]

    @staticmethod
    def empty(node: Host) -> None:
        """A server as a bare host has it."""
        node.must("systemctl", "stop", "mariadb")
        node.must("find", "/var/lib/mysql", "-mindepth", "1", "-delete")
        node.must("mariadb-install-db", "--user=mysql", "--wsrep-on=0", "--disable-log-bin")
        node.must("systemctl", "start", "mariadb")

    copy_anew = empty  # then it gets all data from another node

    @staticmethod
    def writable(node: Host) -> bool:
        return True  # each may be, and the proxies take one

    @staticmethod
    def encrypted(node: Host) -> bool:
        return "socket.ssl = YES" in node.sql("SELECT @@wsrep_provider_options")[0][0]


PACKAGE = """
INSTALL PLUGIN auth_socket SONAME 'auth_socket.so';
ALTER USER 'root'@'localhost' IDENTIFIED WITH 'auth_socket';
CREATE USER 'debian-sys-maint'@'localhost' IDENTIFIED WITH 'auth_socket' AS 'root';
"""


class GroupReplication:
    client, unit = "mysql", "mysql"
    configuration = "/etc/mysql/mysql.conf.d/zz-cluster.cnf"
    returns = False  # the group chooses, and nothing asks it to choose again

    @staticmethod
    def states(node: Host) -> list[str]:
        """Its own state first."""
        own = "MEMBER_ID = @@server_uuid DESC"
        table = "performance_schema.replication_group_members"
        return [row[0] for row in node.asked(f"SELECT MEMBER_STATE FROM {table} ORDER BY {own}")]

    @classmethod
    def whole(cls, node: Host, size: int) -> bool:
        return cls.states(node) == ["ONLINE"] * size

    @classmethod
    def serves(cls, node: Host) -> bool:
        return cls.states(node)[:1] == ["ONLINE"]

    @classmethod
    def name(cls, node: Host) -> str:
        view = node.sql("SELECT VIEW_ID FROM performance_schema.replication_group_member_stats LIMIT 1")
        return view[0][0].partition(":")[0]

    @staticmethod
    def empty(node: Host) -> None:
        """A server as a bare host has it."""
        node.must("systemctl", "stop", "mysql")
        node.must("find", "/var/lib/mysql", "-mindepth", "1", "-delete")
        script = "/var/lib/mysql-files/package.sql"  # as the package's own does
        node.must("sh", "-c", f"cat >{script}", text=PACKAGE)
        node.must("mysqld", "--initialize-insecure", "--user=mysql", f"--init-file={script}")
        node.must("rm", script)
        node.must("systemctl", "start", "mysql")

    @staticmethod
    def copy_anew(node: Host) -> None:
        """It gets all data from another node."""
        for statement in (
            "STOP GROUP_REPLICATION",
            "RESET BINARY LOGS AND GTIDS",
            "SET GLOBAL group_replication_clone_threshold = 1",
            "START GROUP_REPLICATION",
        ):
            node.sql(statement)

    @staticmethod
    def writable(node: Host) -> bool:
        return node.sql("SELECT @@super_read_only") == [["0"]]

    @staticmethod
    def encrypted(node: Host) -> bool:
        loose = node.sql("SELECT User, Host FROM mysql.user WHERE User = 'cluster' AND ssl_type = ''")
        return node.sql("SELECT @@group_replication_ssl_mode") == [["VERIFY_IDENTITY"]] and not loose


ENGINES = {"galera": Galera, "group_replication": GroupReplication}


def healthy(nodes) -> bool:
    return all(node.engine.whole(node, len(nodes)) for node in nodes)


def wait_for(condition, seconds=120):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"not within {seconds} s"
        time.sleep(0.2)
    return time.monotonic() - start


SESSIONS = """
import csv, socket, sys
proxy = socket.socket(socket.AF_UNIX)
proxy.connect("/run/haproxy/admin.sock")
proxy.sendall(b"show stat\\n")
text = b"".join(iter(lambda: proxy.recv(65536), b"")).decode()
for row in csv.DictReader(text.lstrip("# ").splitlines()):
    if row["pxname"] == sys.argv[1] and row["svname"] not in ("FRONTEND", "BACKEND") and row["scur"] != "0":
        print(row["svname"])
"""


def with_sessions(nodes: list[Host], part: str) -> list[Host]:
    """The nodes to which a PART of the proxies has sessions: `database` or `replicas`."""
    names = {name for host in nodes[0].proxies for name in host.must("python3", "-c", SESSIONS, part).split()}
    return [node for node in nodes if node.name in names]


def writer(nodes: list[Host]) -> list[Host]:
    """Where the application's sessions are that may write: the proxies send all of them to one node."""
    return with_sessions(nodes, "database")


def at_once(work: Callable[[Host], T], nodes: list[Host]) -> list[T]:
    """WORK on all nodes together; raises what it raised on the first where it failed."""
    with ThreadPoolExecutor(len(nodes)) as pool:
        return list(pool.map(work, nodes))


def kill(nodes: list[Host]) -> None:
    """All at once."""
    at_once(lambda node: node.must("systemctl", "kill", "--signal=KILL", node.engine.unit), nodes)


@contextlib.contextmanager
def on_small_disks(nodes: list[Host]) -> Iterator[None]:
    """The data of these nodes on file systems of their own."""
    # A real host's agent sees what is mounted after it began; in a container mounts are private.
    see = ("systemctl", "restart", "mysql-cluster-agent.service")
    with contextlib.ExitStack() as disks:
        for node in nodes:
            disks.callback(node.must, *see)
            disks.enter_context(
                disk.small(lambda script, node=node: node.must("sh", text=script), node.engine.unit)
            )
            node.must(*see)
        yield


class Fewest:
    """How many nodes served at the worst moment of the block: `serving`."""

    def __init__(self, nodes: list[Host]) -> None:
        self.nodes, self.serving, self.done = nodes, len(nodes), threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self) -> None:
        while not self.done.wait(0.3):
            self.serving = min(self.serving, sum(node.engine.serves(node) for node in self.nodes))

    def __enter__(self) -> Fewest:
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.done.set()
        self.thread.join()


class Clients:
    """Threads that do WORK(number) until the block ends: it looks at `stop`."""

    def __init__(self, work: Callable[[int], None], count: int) -> None:
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(90)


class Load(Clients):
    """Clients that write through the site, request after request, and remember what was acknowledged."""

    def __init__(self, address: str) -> None:
        super().__init__(self.write, WRITERS)
        self.address = address
        self.mark = secrets.token_hex(6)
        self.acknowledged: dict[str, float] = {}
        self.failed: list[tuple[float, str]] = []
        self.slowest = 0.0

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
                if answer.status in (200, 201):  # 200: stored by an attempt before, whose answer was lost
                    self.acknowledged[reference] = time.monotonic()
                else:
                    self.failed.append((start, f"{answer.status} {said[:80]!r}"))
            except OSError as error:
                self.failed.append((start, str(error)))
            self.slowest = max(self.slowest, time.monotonic() - start)

    def __enter__(self):
        super().__enter__()
        try:
            wait_for(lambda: len(self.acknowledged) > 50)
        except BaseException:
            self.__exit__()
            raise
        return self

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
