#!/usr/bin/env python3
"""How long a plan takes: `ansible-playbook playbooks/plan.yml` over 1, 10, 100 and 1,000 application hosts.

Prints a row a size; exits 1 where one host takes over 3 s, 1,000 hosts over 15 s, or growth is not linear.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {1: 3.0, 1000: 15.0}


def inventory(folder, count):
    """One server, `count` application hosts of three sizes with variables of their own, one web host."""
    hosts = {
        f"app{number:04}": {
            "ansible_host": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
            "django_app_workers": 1 + number % 3,
            "django_app_pool_size": 2 + number % 3,
        }
        for number in range(1, count + 1)
    }
    data = {
        "all": {
            "vars": {"django_app_threads": 4},
            "children": {
                "database": {
                    "hosts": {
                        "db1": {
                            "ansible_host": "10.255.0.1",
                            "mysql_flavor": "mysql",
                            "mysql_max_connections": max(3000, 60 * count),
                            "budget_host_memory": "1024G",
                        }
                    }
                },
                "application": {"hosts": hosts},
                "web": {"hosts": {"web1": {}}},
            },
        }
    }
    path = Path(folder) / f"{count}.yml"
    path.write_text(json.dumps(data), encoding="utf-8")  # JSON is YAML
    return path


def busy():
    """Seconds of processor that finished children took: the figure that a busy machine does not stretch."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds(path, runs):
    best = None
    for _ in range(runs):
        begin, cpu = time.monotonic(), busy()
        done = subprocess.run(
            [sys.executable, "-m", "ansible", "playbook", "-i", str(path), "playbooks/plan.yml"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        took = time.monotonic() - begin
        if done.returncode or "This works out." not in done.stdout:
            raise SystemExit(done.stdout + done.stderr)
        this = (took, busy() - cpu)
        best = this if best is None else min(best, this)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=[1, 10, 100, 1000])
    parser.add_argument("--runs", type=int, default=2, help="runs a size; the best counts")
    given = parser.parse_args()
    took, bad = {}, []
    print(f"{'application hosts':>18} {'seconds':>8} {'limit':>6} {'processor':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for count in given.sizes:
            took[count], cpu = seconds(inventory(folder, count), given.runs)
            limit = LIMITS.get(count)
            print(f"{count:>18} {took[count]:>8.1f} {limit or '':>6} {cpu:>10.1f}", flush=True)
            if limit and took[count] > limit:
                bad.append(f"{count} hosts took {took[count]:.1f} s, over {limit} s")
    if 100 in took and 1000 in took and 10 in took:
        small, large = (took[100] - took[10]) / 90, (took[1000] - took[100]) / 900
        print(
            f"each further host: {1000 * small:.1f} ms up to 100, {1000 * large:.1f} ms from there to 1,000"
        )
        if large > 2 * max(small, 0.002):
            bad.append("growth is not linear")
    print("; ".join(bad) or "within the limits")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
