"""Releases under constant load (`make chaos-release`): is a request lost, how long does a release take?

Two application hosts behind one web host (scenario `release`), writers and readers through the proxy at a
constant rate; 20 releases, every fourth with a migration and followed by a rollback. The table goes to
docs/reliability.md. Exit status 1 when a request failed, a row was lost or the connections left their budget.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "release"))
import fleet  # noqa: E402
import measured  # noqa: E402
import reference_releases  # noqa: E402

HAND_OVER = "Put the release in service"


def release(number: int, migration: bool) -> None:
    fleet.make(number)
    if migration:
        operation = f"migrations.AddField('entry', 'x{number}', models.IntegerField(null=True))"
        reference_releases.add_migration(fleet.SOURCE, f"0002_{number}", operation)


def budget() -> int:
    """What the plan says the server's connections come to at most, both generations of workers included."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        run = fleet.play("playbooks/plan.yml", variables={"budget_report_file": file.name}).finish()
        assert run.status == 0, run.text
        return json.loads(Path(file.name).read_text())["servers"][fleet.WEB]["connections_total"]


def step(what: str, run: fleet.Play, load: fleet.Load) -> dict:
    assert run.status == 0, f"{what}: {run.text[-3000:]}"
    hosts = {host: seconds for task, host, _, seconds in run.results() if HAND_OVER in task}
    assert set(hosts) == set(fleet.APPLICATIONS), f"{what}: {hosts}"
    row = {"what": what, "seconds": run.seconds, "hosts": list(hosts.values()), "failed": len(load.failures)}
    each = " ".join(f"{seconds:.1f}" for seconds in row["hosts"])
    print(f"{what:12} {row['seconds']:6.1f} s, hand-over {each} s, failed {row['failed']}", flush=True)
    return row


def spread(values: list[float]) -> str:
    return f"{min(values):.0f} / {statistics.median(values):.0f} / {max(values):.0f}"


def page(
    rows: list[dict], load: fleet.Load, stored: tuple[int, int], peak: int, bound: int, machine: str
) -> str:
    lines = [
        f"By `make chaos-release` (Debian 13, MariaDB 11.8, {machine}): "
        f"{load.answers} requests in {load.seconds:.0f} s, half of them writes, at {load.rate:.0f} a second "
        "through the web host.",
        "",
        "| | number | seconds, whole run (min / median / max) | seconds, hand-over of a host | failed |",
        "|---|---|---|---|---|",
    ]
    failed = 0
    counts = {"release": 0, "rollback": 0}
    for row in rows:
        row["kind"] = row["what"].split()[0]
        counts[row["kind"]] += row["failed"] - failed
        failed = row["failed"]
    for kind, name in (("release", "releases"), ("rollback", "rollbacks")):
        chosen = [row for row in rows if row["kind"] == kind]
        whole, each = [row["seconds"] for row in chosen], [one for row in chosen for one in row["hosts"]]
        lines.append(f"| {name} | {len(chosen)} | {spread(whole)} | {spread(each)} | {counts[kind]} |")
    lines += [
        "",
        f"Acknowledged rows: {len(load.acknowledged)}; stored: {stored[0]}; stored twice: {stored[1]}. "
        f"The slowest answer took {load.slowest:.1f} s. The server's connections reached {peak} "
        f"(`Max_used_connections`); the budget, with both generations of workers, is {bound}.",
    ]
    return "\n".join(lines)


def sandbox(state: str) -> None:
    run = fleet.play("playbooks/sandbox.yml", variables={"sandbox_state": state}).finish()
    assert run.status == 0, run.text[-3000:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--releases", type=int, default=20)
    parser.add_argument("--rate", type=float, default=40, help="requests a second")
    parser.add_argument("--keep", action="store_true", help="leave the hosts; take those that are there")
    arguments = parser.parse_args()
    machine = measured.machine("three hosts")
    if not arguments.keep:
        sandbox("absent")
    sandbox("present")
    fleet.make(int(time.time()))
    first = fleet.deploy()
    assert first.status == 0, first.text[-3000:]
    bound = budget()
    fleet.sql("FLUSH GLOBAL STATUS")
    rows, base = [], int(time.time())  # never a release that the hosts had before
    with fleet.Load(arguments.rate) as load:
        for number in range(1, arguments.releases + 1):
            release(base + number, migration=number % 4 == 0)
            rows.append(step(f"release {number}", fleet.deploy(), load))
            if number % 4 == 0:
                back = fleet.play("playbooks/rollback.yml").finish()
                rows.append(step(f"rollback {number // 4}", back, load))
    stored = load.stored()
    peak = int(fleet.sql("SHOW GLOBAL STATUS LIKE 'Max_used_connections'").split()[1])
    text = page(rows, load, stored, peak, bound, machine)
    print(text)
    if not arguments.keep:
        sandbox("absent")
    if arguments.releases == 20:
        measured.write("releases", text)
    for failure in load.failures[:20]:
        print(failure)
    return int(bool(load.failures) or stored != (len(load.acknowledged), 0) or peak > bound)


if __name__ == "__main__":
    sys.exit(main())
