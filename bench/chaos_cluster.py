"""What a cluster goes through (`make chaos-cluster`): fault after fault at the node that writes, under load.

The hosts of molecule/galera and of molecule/group_replication. Clients read and write through the web host
at a constant rate, answered or not. For every fault, several times: the longest time without an acknowledged
row, which requests failed, when all nodes were back and who brought them back, and whether every acknowledged
row is stored exactly once on every node. The tables go to docs/cluster.md, line after line. Exit status 1
when a row was lost or doubled.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "fixtures"), str(ROOT / "tests" / "cluster")]
import disk  # noqa: E402
import measured  # noqa: E402
from chaos import LASTS, PODMAN, asked  # noqa: E402
from hosts import DEPLOY, Hosts, Load  # noqa: E402
from nodes import GroupReplication, Host, groups, healthy, kill, on_small_disks, wait_for, writer  # noqa: E402

PAGE = ROOT / "docs" / "cluster.md"
KINDS = {"galera": "Galera, MariaDB 11.8", "group_replication": "Group Replication, MySQL 9.7"}
CLIENTS, COLUMNS = 200, 10
FROZEN, APART = 20, 30  # seconds, of the faults that last
ALONE = 45  # seconds in which nodes that lost each other may find each other without help
CUT_OFF = """
set -e
nft 'table inet chaos {
  chain in { type filter hook input priority -200; iifname lo accept; tcp dport 22 accept; drop; }
  chain out { type filter hook output priority -200; oifname lo accept; tcp sport 22 accept; drop; }
}'
"""


class Cluster:
    """The hosts of one scenario."""

    def __init__(self, kind: str) -> None:
        self.kind, self.hosts = kind, Hosts(ROOT / "molecule" / kind / "inventory")
        parts = groups(str(ROOT / "molecule" / kind / "inventory"))
        self.nodes = parts["database"]
        self.site = parts["web"][0].address
        self.helped = ""

    def play(self, *words: str, **variables) -> str:
        run = self.hosts.play(*words, variables=variables).finish()
        assert run.status == 0, f"{words}: {run.text[-3000:]}"
        return run.text

    def deploy(self) -> None:
        self.play("playbooks/sandbox.yml")
        self.play(*DEPLOY)
        for node in self.nodes:
            node.must("sh", "-c", "command -v nft || { apt-get -q update && apt-get -qy install nftables; }")

    def back(self) -> None:
        """Until every node is in the cluster; an operator helps where that does not happen by itself."""
        with contextlib.suppress(AssertionError):  # then they need help
            wait_for(lambda: healthy(self.nodes), ALONE)
        if not any(self.serves(node) for node in self.nodes):
            asked = self.hosts.play("playbooks/recover_cluster.yml").finish().text
            found = re.search(r"-e recover_from=([\w.-]+)", asked)
            assert found, asked[-2000:]
            self.play("playbooks/recover_cluster.yml", recover_from=found.group(1))
            self.helped = "`recover_cluster.yml`"
        wait_for(lambda: healthy(self.nodes), 300)

    def serves(self, node: Host) -> bool:
        if node.engine is not GroupReplication:
            return node.engine.serves(node)
        states = node.engine.states(node)
        return states[:1] == ["ONLINE"] and 2 * states.count("UNREACHABLE") < len(states)

    def first_writes(self) -> None:
        """The node that is struck is the first one."""
        first = self.nodes[0]
        if first.engine is GroupReplication:
            own = first.sql("SELECT @@server_uuid")[0][0]
            first.sql(f"SELECT group_replication_set_as_primary('{own}')")


def kill_writer(cluster: Cluster) -> None:
    kill(cluster.nodes[:1])


def kill_two(cluster: Cluster) -> None:
    kill(cluster.nodes[:2])


def kill_all(cluster: Cluster) -> None:
    kill(cluster.nodes)


def kill_host(cluster: Cluster) -> None:
    name = cluster.nodes[0].name
    subprocess.run([PODMAN, "kill", name], check=True, stdout=subprocess.DEVNULL)
    time.sleep(FROZEN)
    subprocess.run([PODMAN, "start", name], check=True, stdout=subprocess.DEVNULL)


def cut_off(cluster: Cluster) -> None:
    cluster.hosts.on(cluster.nodes[0].name, f"{CUT_OFF} sleep {APART}; nft delete table inet chaos")


def stop(cluster: Cluster) -> None:
    cluster.nodes[0].must("systemctl", "stop", cluster.nodes[0].engine.unit)
    cluster.nodes[0].must("systemctl", "start", cluster.nodes[0].engine.unit)


def fill_disk(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    cluster.hosts.on(node.name, disk.FILL.format(client=node.engine.client, lasts=LASTS))


def freeze(cluster: Cluster) -> None:
    one = f"$(systemctl show --value -p MainPID {cluster.nodes[0].engine.unit})"
    cluster.hosts.on(cluster.nodes[0].name, f"kill -STOP {one}; sleep {FROZEN}; kill -CONT {one}")


@contextlib.contextmanager
def on_a_small_disk(cluster: Cluster) -> Iterator[None]:
    with on_small_disks(cluster.nodes[:1]):
        wait_for(lambda: healthy(cluster.nodes), 300)
        yield
    wait_for(lambda: healthy(cluster.nodes), 300)


@dataclass
class Fault:
    key: str
    what: str
    strike: Callable[[Cluster], None]
    around: Callable = lambda _: contextlib.nullcontext()


FAULTS = [
    Fault("kill", "`kill -9` of the writer", kill_writer),
    Fault("host", f"its host is killed, and is back after {FROZEN} s", kill_host),
    Fault("partition", f"it is cut off from everything for {APART} s", cut_off),
    Fault("stop", "it is stopped politely, and started", stop),
    Fault("disk", f"its disk is full for {LASTS} s", fill_disk, on_a_small_disk),
    Fault("freeze", f"it is frozen for {FROZEN} s (`SIGSTOP`)", freeze),
    Fault("two", "`kill -9` of the writer and another", kill_two),
    Fault("all", "`kill -9` of all three", kill_all),
]


@dataclass
class Round:
    """What came of one fault."""

    acknowledged: int
    lost: int
    doubled: int
    gap: float  # seconds without an acknowledged row, the longest
    flying: int  # requests that failed, and had begun when it struck
    later: int  # and those that came after it
    back: float  # seconds until all nodes were back
    helped: str  # by what; empty: by themselves


def measure(cluster: Cluster, fault: Fault, rate: float) -> Round:
    wait_for(lambda: healthy(cluster.nodes), 300)
    cluster.first_writes()
    cluster.helped = ""
    with Load(cluster.site, rate, CLIENTS) as load:
        load.wait_for(lambda all: len(load.acknowledged) > 100, 60, "rows before the fault")
        wait_for(lambda: writer(cluster.nodes) == cluster.nodes[:1])
        struck = time.monotonic()
        fault.strike(cluster)
        cluster.back()
        back = time.monotonic() - struck
        count = len(load.acknowledged)
        load.wait_for(lambda all: len(load.acknowledged) > count + 100, 120, "rows after it")
    wait_for(lambda: healthy(cluster.nodes), 300)
    rows = [load.stored(lambda text, node=node: on(node, text)) for node in cluster.nodes]
    good = sorted(one.ended for one in load.all if one.write and not one.problem and one.ended > struck)
    failed = [one for one in load.all if one.problem]
    flying = sum(one.began <= struck + 0.5 for one in failed)
    for one in failed[:5]:
        print(
            f"  began {one.began - struck:.2f} s, took {one.seconds:.2f} s: {one.problem[:160]}", flush=True
        )
    return Round(
        acknowledged=len(load.acknowledged),
        lost=len(load.acknowledged) - min(stored for stored, _ in rows),
        doubled=max(twice for _, twice in rows),
        gap=max(b - a for a, b in zip([struck, *good], good, strict=False)),
        flying=flying,
        later=len(failed) - flying,
        back=back,
        helped=cluster.helped,
    )


def line(fault: Fault, rounds: list[Round]) -> str:
    gaps = [one.gap for one in rounds]
    cells = [fault.what]
    cells += [str(sum(getattr(one, name) for one in rounds)) for name in ("acknowledged", "lost", "doubled")]
    cells += [f"{statistics.median(gaps):.1f}", f"{max(gaps):.1f}"]
    cells += [str(sum(getattr(one, name) for one in rounds)) for name in ("flying", "later")]
    cells += [f"{max(one.back for one in rounds):.0f}"]
    cells += [max(one.helped for one in rounds) or "itself"]
    return "| " + " | ".join(cells) + " |"


def on(node: Host, statement: str) -> str:
    return node.must(node.engine.client, "--batch", "--skip-column-names", "journal", text=statement)


def kept(kind: str) -> dict[str, str]:
    """The lines of runs before this one, for faults that this one leaves out."""
    block = PAGE.read_text().partition(f"BEGIN measured chaos {kind} ")[2].partition("<!-- END")[0]
    lines = [
        line for line in block.splitlines() if line.startswith("| ") and line.count(" | ") == COLUMNS - 1
    ]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


def run(kind: str, faults: list[Fault], rate: float, rounds: int, keep: bool, write: bool) -> bool:
    machine = measured.machine("all hosts")
    cluster = Cluster(kind)
    if not keep:
        cluster.play("playbooks/sandbox.yml", sandbox_state="absent")
    cluster.deploy()
    wrong, lines = False, kept(kind)
    head = [
        f"{KINDS[kind]}, by `make chaos-cluster`, each fault {rounds} times, added up ({machine}): "
        f"{rate:.0f} requests a second, half of them writes.",
        "",
        "| what happens to the node that writes | rows acknowledged | lost | doubled "
        "| s without a write: median | longest | failed: in flight | later "
        "| s until all nodes are back | by |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for fault in faults:
        with fault.around(cluster):
            came = [measure(cluster, fault, rate) for _ in range(rounds)]
        lines[fault.what] = line(fault, came)
        print(lines[fault.what], flush=True)
        wrong |= any(one.lost or one.doubled for one in came)
        if write:
            rows = [lines[fault.what] for fault in FAULTS if fault.what in lines]
            measured.write(f"chaos {kind}", "\n".join([*head, *rows]), PAGE)
    if not keep:
        cluster.play("playbooks/sandbox.yml", sandbox_state="absent")
    return wrong


def main() -> int:
    given = asked(__doc__, "--kind", KINDS, FAULTS, PAGE.name, rounds=3)
    wrong = False
    for kind in given.chosen:
        wrong |= run(kind, given.faults, given.rate, given.rounds, given.keep, given.write)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
