"""What the pair of application and server goes through (`make chaos`): fault after fault, under load.

A database host, and an application host with its proxy (molecule/chaos), for each server. Clients read and
write through the proxy at a constant rate, answered or not. For every fault: which requests failed and why,
how long until everything that comes is answered again as before, whether every acknowledged row is stored
exactly once, and the most connections that the server has had. The tables go to docs/reliability.md. Exit
status 1 when a row was lost or doubled, the budget was left, or a request failed that was neither in flight
when something was cut nor at the end of a time-out that is stated.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))
import disk  # noqa: E402
import measured  # noqa: E402
from hosts import DEPLOY, Answer, Hosts, Load  # noqa: E402

INVENTORY = ROOT / "molecule" / "chaos" / "inventory"
PODMAN = ROOT / "roles" / "sandbox" / "files" / "podman"
DB, APP = "chaos-db", "chaos-app"
SYSTEMS = {"mysql": "MySQL 9.7, Debian sid", "debian13": "MariaDB 11.8, Debian 13"}
CLIENTS = 800  # more than ever wait: the load does not ease off when answers do not come
SLOW = 1.0  # seconds; service is full when every answer is quicker
LASTS = 10  # seconds, of the faults that last
SHORTEST = 10.0  # seconds, of the time-outs on the way: the pool's


class Pair:
    """The two hosts, with the server that SYSTEM has."""

    def __init__(self, system: str) -> None:
        self.system = system
        self.name = "mysql" if system == "mysql" else "mariadb"  # of the unit and of the client
        self.hosts = Hosts(INVENTORY, sandbox_os=system)

    def play(self, *words: str, **variables) -> None:
        run = self.hosts.play(*words, variables=variables).finish()
        assert run.status == 0, f"{words}: {run.text[-3000:]}"

    def db(self, script: str) -> str:
        return self.hosts.on(DB, script)

    def podman(self, *words: str) -> None:
        subprocess.run([PODMAN, *words], check=True, stdout=subprocess.DEVNULL)

    def app(self, script: str) -> str:
        return self.hosts.on(APP, script)

    def sql(self, statement: str) -> str:
        return self.db(f"{self.name} -BN journal <<'END'\n{statement};\nEND")

    def peak(self) -> int:
        return int(self.sql("SHOW GLOBAL STATUS LIKE 'Max_used_connections'").split()[1])

    def budget(self) -> int:
        """What the plan says the server's connections come to at most."""
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            self.play("playbooks/plan.yml", budget_report_file=file.name)
            return json.loads(Path(file.name).read_text())["servers"][DB]["connections_total"]

    def reasons(self, since: str) -> Counter:
        """What the site's log says of requests that failed, by the server's numbers."""
        log = self.app(f"journalctl --unit=django-app --since='{since}' --output=cat --no-pager")
        found = re.findall(r"^django\.db\.utils\.\w+: (.*)$", log, re.M)
        return Counter(re.sub(r"\d+\.\d+ s|'[^']*\d[^']*'|[0-9a-f]{8,}", "...", one)[:100] for one in found)


# ---- the faults ------------------------------------------------------------------------------------
# Each does its harm, undoes what does not end by itself, and returns the moment after which no more is cut.


def kill_connections(pair: Pair) -> float:
    ids = pair.sql("SELECT id FROM information_schema.processlist WHERE user = 'app'").split()
    # One that has ended meanwhile is no error.
    pair.db(f"{pair.name} --force journal -e '{' '.join(f'KILL {one};' for one in ids)}' || :")
    return time.monotonic()


def restart_server(pair: Pair) -> float:
    pair.db(f"systemctl stop {pair.name}")
    gone = time.monotonic()
    pair.db(f"systemctl start {pair.name}")
    return gone


def kill_server(pair: Pair) -> float:
    pair.db(f"systemctl kill --kill-whom=main --signal=KILL {pair.name}")
    return time.monotonic()


def freeze_server(pair: Pair) -> float:
    began = time.monotonic()
    one = f"$(systemctl show --value -p MainPID {pair.name})"
    pair.db(f"kill -STOP {one}; sleep {LASTS}; kill -CONT {one}")
    return began


def drop_packets(pair: Pair) -> float:
    began = time.monotonic()
    address = pair.hosts.address(APP)
    rules = "table inet chaos {"
    for hook, end in (("input", "saddr"), ("output", "daddr")):
        rules += f" chain {hook} {{ type filter hook {hook} priority -200; ip {end} {address} drop; }};"
    pair.db(f"set -e; nft '{rules} }}'; sleep {LASTS}; nft delete table inet chaos")
    return began


def read_only(pair: Pair) -> float:
    began = time.monotonic()
    pair.sql(f"SET GLOBAL read_only = 1; DO SLEEP({LASTS}); SET GLOBAL read_only = 0")
    return began


def fill_disk(pair: Pair) -> float:
    began = time.monotonic()
    pair.db(disk.FILL.format(client=pair.name, lasts=LASTS))
    return began


def reboot_host(pair: Pair) -> float:
    pair.podman("stop", "--time=60", DB)
    gone = time.monotonic()
    pair.podman("start", DB)
    return gone


def kill_gunicorn(pair: Pair) -> float:
    pair.app("systemctl kill --kill-whom=all --signal=KILL django-app")
    return time.monotonic()


def rotate_password(pair: Pair) -> float:
    began = time.monotonic()
    pair.play("playbooks/rotate.yml")
    return began


def on_a_small_disk(pair: Pair) -> contextlib.AbstractContextManager:
    return disk.small(pair.db, pair.name)


@dataclass
class Fault:
    key: str
    what: str
    strike: Callable[[Pair], float]
    around: Callable[[Pair], contextlib.AbstractContextManager] = field(
        default=lambda _: contextlib.nullcontext()
    )


FAULTS = [
    Fault("connections", "every pooled connection is killed", kill_connections),
    Fault("restart", "the server is restarted", restart_server),
    Fault("kill", "the server is killed (`kill -9`)", kill_server),
    Fault("freeze", f"the server is frozen for {LASTS} s (`SIGSTOP`)", freeze_server),
    Fault("disk", f"its disk is full for {LASTS} s", fill_disk, on_a_small_disk),
    Fault("network", f"no packet passes between application and server for {LASTS} s", drop_packets),
    Fault("readonly", f"the server is set read-only for {LASTS} s", read_only),
    Fault("reboot", "the server's host is rebooted", reboot_host),
    Fault("password", "the password is rotated (`playbooks/rotate.yml`)", rotate_password),
    Fault("gunicorn", "gunicorn and its workers are killed (`kill -9`)", kill_gunicorn),
]
if not (ROOT / "playbooks" / "rotate.yml").exists():
    FAULTS = [fault for fault in FAULTS if fault.strike is not rotate_password]


# ---- what came of each -----------------------------------------------------------------------------


@dataclass
class Row:
    fault: Fault
    kinds: Counter  # of the requests that failed
    service: float
    slowest: float
    acknowledged: int
    stored: int
    doubled: int
    peak: int

    def wrong(self, budget: int) -> list[str]:
        found = []
        if self.stored != self.acknowledged or self.doubled:
            found.append(f"{self.acknowledged} acknowledged, {self.stored} stored, {self.doubled} doubled")
        if self.peak > budget:
            found.append(f"{self.peak} connections, the budget is {budget}")
        if self.kinds["neither"]:
            found.append(f"{self.kinds['neither']} requests failed for no stated reason")
        return found


def kind(answer: Answer, struck: float, cut: float) -> str:
    """Why a request may have failed."""
    if answer.seconds >= SHORTEST:
        return "time-out"
    return "in flight" if answer.began <= cut and answer.ended >= struck else "neither"


def burst(load: Load) -> None:
    """More at once than the site has threads, so that every connection of its pools is used."""
    threads = [threading.Thread(target=load.request, args=(bool(n % 2),)) for n in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def full_service(load: Load, since: float) -> None:
    """Wait until what comes is answered well and quickly, and nothing is left that waits."""

    def calm(answers: list[Answer]) -> bool:
        last = [one for one in answers if one.began > since][-round(3 * load.rate) :]
        oldest = min(load.open.values(), default=since)
        return (
            len(last) >= 3 * load.rate
            and all(not one.problem and one.seconds < SLOW for one in last)
            and (oldest > time.monotonic() - SLOW)
        )

    load.wait_for(calm, 240, "full service again")


def measure(pair: Pair, fault: Fault, rate: float) -> Row:
    with fault.around(pair):
        pair.sql("FLUSH STATUS" if pair.name == "mysql" else "FLUSH GLOBAL STATUS")
        with Load(pair.hosts.address(APP), rate, CLIENTS) as load:
            full_service(load, load.start)
            burst(load)
            since, peak = pair.app("date '+%F %T'"), pair.peak()
            struck = time.monotonic()
            cut = fault.strike(pair)
            full_service(load, time.monotonic())
            calm = time.monotonic()
            burst(load)
        stored, doubled = load.stored(pair.sql)
        peak = max(peak, pair.peak())
    after = [one for one in load.all if one.ended >= struck]
    bad = [one.began for one in after if one.began < calm and (one.problem or one.seconds > SLOW)]
    failed = [one for one in after if one.problem]
    row = Row(
        fault,
        Counter(kind(one, struck, cut) for one in failed),
        max([0.0, *(began - struck for began in bad)]),
        max(one.seconds for one in after),
        len(load.acknowledged),
        stored,
        doubled,
        peak,
    )
    print(
        f"{fault.what}: failed {dict(row.kinds) or 0} of {len(after)}, full service after {row.service:.1f} "
        f"s, slowest {row.slowest:.1f} s, {row.acknowledged} rows acknowledged, {row.stored} stored, "
        f"{row.doubled} doubled, peak {row.peak}",
        flush=True,
    )
    for one in failed:
        if kind(one, struck, cut) == "neither":
            print(f"  neither: began {one.began - struck:.2f} s, took {one.seconds:.2f} s: {one.problem}")
    for reason, count in pair.reasons(since).most_common(6):
        print(f"  {count} x {reason}", flush=True)
    assert not [one for one in load.all if one.problem and one.ended < struck], "failed before the fault"
    return row


def page(pair: Pair, rows: list[Row], rate: float, budget: int, machine: str) -> str:
    lines = [
        f"{SYSTEMS[pair.system]}, by `make chaos` ({machine}): {rate:.0f} requests a second, "
        f"half of them writes. The server's connections may come to {budget}.",
        "",
        "| fault | failed: in flight | at a time-out | seconds to full service | slowest answer, s "
        "| rows acknowledged | stored | doubled | peak connections |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (row.fault.what, row.kinds["in flight"], row.kinds["time-out"], f"{row.service:.1f}")
        cells += (f"{row.slowest:.1f}", row.acknowledged, row.stored, row.doubled, row.peak)
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def run(pair: Pair, faults: list[Fault], rate: float, keep: bool) -> tuple[str, list[str]]:
    machine = measured.machine("both hosts")
    if not keep:
        pair.play("playbooks/sandbox.yml", sandbox_state="absent")
    pair.play("playbooks/sandbox.yml")
    pair.play(*DEPLOY)
    pair.db("command -v nft >/dev/null || { apt-get -q update && apt-get -qy install nftables; }")
    budget = pair.budget()
    rows = [measure(pair, fault, rate) for fault in faults]
    if not keep:
        pair.play("playbooks/sandbox.yml", sandbox_state="absent")
    wrong = [f"{row.fault.what}: {said}" for row in rows for said in row.wrong(budget)]
    return page(pair, rows, rate, budget, machine), wrong


def asked(
    doc: str, option: str, choices: dict[str, str], faults: list, page: str, rounds: int = 1
) -> argparse.Namespace:
    """What the command line asks for: on which of CHOICES, and which of FAULTS."""
    parser = argparse.ArgumentParser(description=doc)
    keys = [fault.key for fault in faults]
    parser.add_argument(option, dest="chosen", nargs="*", default=list(choices), choices=choices)
    parser.add_argument("--only", nargs="*", default=keys, choices=keys, help="these faults")
    parser.add_argument("--write", action="store_true", help=f"the tables to docs/{page}")
    # What waits through a minute without the database stays below gunicorn's backlog (2048).
    parser.add_argument("--rate", type=float, default=30, help="requests a second")
    parser.add_argument("--keep", action="store_true", help="leave the hosts; take those that are there")
    if rounds > 1:
        parser.add_argument("--rounds", type=int, default=rounds, help="how often each fault strikes")
    given = parser.parse_args()
    given.faults = [fault for fault in faults if fault.key in given.only]
    return given


def main() -> int:
    given = asked(__doc__, "--os", SYSTEMS, FAULTS, "reliability.md")
    wrong = 0
    for system in given.chosen:
        text, found = run(Pair(system), given.faults, given.rate, given.keep)
        print(text, *found, sep="\n")
        wrong += len(found)
        if given.write:
            measured.write(f"chaos {system}", text)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
