"""How long the main job takes on a fresh host and on a deployed one (`make bench-deploy`).

For each operating system a fresh throw-away host is started (not counted), then ``playbook.yml`` runs on it
twice: the first run installs everything, the second must change nothing. Both include the proof.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SYSTEMS = ("mysql", "debian13", "debian12")
GOALS = {"first run": 75, "no change": 13}


def play(*arguments: str) -> tuple[float, str]:
    """Run ansible-playbook; (seconds, its output). Exits with the output where it fails."""
    start = time.monotonic()
    run = subprocess.run(
        ["ansible-playbook", *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1"},
    )
    if run.returncode:
        sys.exit(f"{run.stdout}\n{run.stderr}\nbench-deploy: ansible-playbook {' '.join(arguments)} failed")
    return time.monotonic() - start, run.stdout


def recap(output: str, key: str) -> int:
    """The sum of KEY (ok, changed, ...) over the hosts of a play recap."""
    return sum(int(n) for n in re.findall(rf"\b{key}=(\d+)", output))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--os", nargs="*", default=SYSTEMS, choices=SYSTEMS)
    parser.add_argument("--rounds", type=int, default=3, help="no-change runs; the median is printed")
    arguments = parser.parse_args()
    print(f"{'host':10} {'run':10} {'seconds':>8} {'goal':>5} {'tasks':>6} {'changed':>8}")
    for system in arguments.os:
        pick = ("-e", f"sandbox_os={system}")
        play("playbooks/sandbox.yml", *pick, "-e", "sandbox_state=absent")
        play("playbooks/sandbox.yml", *pick)
        first, output = play("playbook.yml", *pick)
        report(system, "first run", first, output)
        again = sorted((play("playbook.yml", *pick) for _ in range(arguments.rounds)), key=lambda run: run[0])
        report(system, "no change", *again[len(again) // 2])
    play("playbooks/sandbox.yml", "-e", "sandbox_state=absent")


def report(system: str, run: str, seconds: float, output: str) -> None:
    """Print one row."""
    changed, tasks = recap(output, "changed"), recap(output, "ok")
    print(f"{system:10} {run:10} {seconds:8.1f} {GOALS[run]:5} {tasks:6} {changed:8}", flush=True)


if __name__ == "__main__":
    main()
