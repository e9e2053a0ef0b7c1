"""Backups of 1 GB (`make bench-restore`): seconds to take one, prove it and restore it, for each flavour.

On the hosts of scenario `backup`, over SFTP to the one that keeps them; written to docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "backup"))
import measured  # noqa: E402
import test_backup as scenario  # noqa: E402

ROW = 1000  # bytes of text, in hexadecimal digits: a compressor halves it
BATCH = 16384


def play(*words: str) -> None:
    command = ["ansible-playbook", "-i", str(scenario.INVENTORY), *words]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{run.stdout[-5000:]}{run.stderr}\nbench-restore: {' '.join(words)} failed")


def fill(host: str, gigabytes: float) -> int:
    """A table of that much text; the megabytes that the data directory then has in databases."""
    scenario.sql(
        "DROP TABLE IF EXISTS bench; CREATE TABLE bench (id INT AUTO_INCREMENT PRIMARY KEY, t TEXT)", host
    )
    insert = f"INSERT INTO bench (t) SELECT HEX(RANDOM_BYTES({ROW // 2})) FROM seed;\n"
    seed = "CREATE TEMPORARY TABLE seed (n INT);\nINSERT INTO seed VALUES (1);\n"
    for _ in range(BATCH.bit_length() - 1):
        seed += "CREATE TEMPORARY TABLE again AS SELECT n FROM seed; INSERT INTO seed SELECT n FROM again;\n"
        seed += "DROP TEMPORARY TABLE again;\n"
    scenario.sql("SET sql_log_bin = 0;\n" + seed + insert * round(gigabytes * 1e9 / ROW / BATCH), host)
    return int(scenario.sql("SELECT SUM(LENGTH(t)) DIV 1000000 FROM bench", host))


def timed(host: str, verb: str) -> float:
    began = time.monotonic()
    scenario.on(scenario.ADDRESSES[host], f"{scenario.PROGRAM} {verb}")
    return time.monotonic() - began


def measure(host: str, gigabytes: float) -> dict:
    address = scenario.ADDRESSES[host]
    name = {"mysql": "MySQL", "mariadb": "MariaDB"}[scenario.CLIENTS[host]]
    version = re.match(r"[0-9.]+", scenario.sql("SELECT VERSION()", host))[0]
    row = {"server": f"{name} {version}", "megabytes": fill(host, gigabytes)}
    row["take"] = timed(host, "take")
    row["prove"] = timed(host, "prove")
    row["restore"] = timed(host, "restore --overwrite")
    rows = int(scenario.sql("SELECT SUM(LENGTH(t)) DIV 1000000 FROM bench", host))
    assert rows == row["megabytes"], f"{host}: {rows} MB came back of {row['megabytes']}"
    scenario.sql("DROP TABLE bench", host)
    scenario.on(address, "rm -rf /var/lib/mysql.before-*")
    print(json.dumps(row), flush=True)
    return row


def page(rows: list[dict], machine: str) -> str:
    lines = [
        f"By `make bench-restore` ({machine}), over SFTP: text of which a compressor saves half, in one "
        "table. A restore ends with a new whole backup, which is in its time.",
        "",
        "| server | MB | seconds to take it | to prove it | to restore it |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        times = " | ".join(f"{row[verb]:.0f}" for verb in ("take", "prove", "restore"))
        lines.append(f"| {row['server']} | {row['megabytes']} | {times} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the hosts; take those that are there")
    arguments = parser.parse_args()
    machine = measured.machine("three hosts")
    if not arguments.keep:
        play("playbooks/sandbox.yml", "-e", "sandbox_state=absent")
        play("playbooks/sandbox.yml")
        play("molecule/backup/prepare.yml")
        play("playbook.yml", "--skip-tags", "verify")
    text = page([measure(host, arguments.gigabytes) for host in scenario.ADDRESSES], machine)
    print(text)
    if not arguments.keep:
        play("playbooks/sandbox.yml", "-e", "sandbox_state=absent")
    if arguments.gigabytes == 1:
        measured.write("backups", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
