#!/usr/bin/env python3
"""Does a plan's memory hold? A planned server under a memory bound, and many clients that sort at once.

    bench/memory.py --inventory INVENTORY --host NAME --bound 1G [--clients 200] [--seconds 30]

The host is one of roles/sandbox to which a run with `budget_host_memory` = the bound was applied. The bound
is a memory cgroup made from outside around the server alone. First the bound is shown to bite (a process that
takes more is killed); then the server is restarted inside it and must serve every client, with the same
process id at the end and no out-of-memory kill.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from planner import units  # noqa: E402

CGROUP = Path("/sys/fs/cgroup/memory/djorm-bench")
SORT = (
    "SELECT a.k, COUNT(*), MAX(a.pad), MAX(b.pad) FROM bench_memory.t a JOIN bench_memory.t b ON a.j = b.id"
    " GROUP BY a.k ORDER BY SHA2(CONCAT(a.k, %s), 256) DESC, 3"
)


class Host:
    def __init__(self, inventory, name):
        listing = subprocess.run(
            ["ansible-inventory", "-i", inventory, "--host", name],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        known = json.loads(listing.stdout)
        self.name = name
        self.base = ["-i", os.path.realpath(known["ansible_ssh_private_key_file"])]
        self.base += known.get("ansible_ssh_common_args", "").split()
        self.login = f"{known.get('ansible_user', 'root')}@{known['ansible_host']}"

    def run(self, command, data=None, check=True):
        return subprocess.run(
            ["ssh", *self.base, self.login, command], input=data, capture_output=True, text=True, check=check
        ).stdout

    def sql(self, text):
        return self.run("sudo mysql -N 2>/dev/null || sudo mariadb -N", text)

    def forward(self, path):
        command = [
            "ssh",
            *self.base,
            "-N",
            "-o",
            "ControlPath=none",
            "-L",
            f"{path}:/run/mysqld/mysqld.sock",
            self.login,
        ]
        process = subprocess.Popen(command)
        for _ in range(100):
            if os.path.exists(path):
                return process
            time.sleep(0.1)
        raise SystemExit("ssh did not forward the socket")

    def roots(self):
        """Process ids, as this machine sees them: the host's own init, and the server."""
        init = subprocess.run(
            [ROOT / "roles/sandbox/files/podman", "inspect", "-f", "{{.State.Pid}}", self.name],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        init = int(init.stdout)
        space = os.readlink(f"/proc/{init}/ns/pid")
        for entry in Path("/proc").iterdir():
            try:
                if (entry / "comm").read_text().strip() in ("mysqld", "mariadbd") and (
                    os.readlink(entry / "ns/pid") == space
                ):
                    return init, int(entry.name)
            except OSError:
                continue
        return init, None


def figure(name):
    return int((CGROUP / name).read_text().split()[0])


def kills():
    return int((CGROUP / "memory.oom_control").read_text().split()[-1])


def bites(bound):
    """A process inside the bound that takes more than it is killed."""
    taker = (
        f"open('{CGROUP}/cgroup.procs', 'w').write('0'); "
        f"keep = bytearray({bound + 64 * units.MIB}); keep[::4096] = b'x' * len(keep[::4096])"
    )
    return subprocess.run([sys.executable, "-c", taker], capture_output=True, check=False).returncode == -9


def client(number, socket, password, until, results, start):
    import MySQLdb
    import MySQLdb.cursors

    try:
        db = MySQLdb.connect(unix_socket=socket, user="bench_memory", passwd=password, db="bench_memory")
        start.wait(120)
        while time.monotonic() < until[0]:
            cursor = db.cursor(MySQLdb.cursors.SSCursor)
            cursor.execute(SORT, (number,))
            cursor.fetchone()
            while cursor.fetchmany(1000):
                pass
            cursor.close()
            results["done"] += 1
        db.close()
    except Exception as error:
        results["errors"].append(str(error)[:200])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inventory", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--bound", required=True, help="1G, 2G, ...")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--rows", type=int, default=3000)
    given = parser.parse_args()
    host, bound, password = Host(given.inventory, given.host), units.size(given.bound), secrets.token_hex(16)
    CGROUP.mkdir(exist_ok=True)
    (CGROUP / "memory.limit_in_bytes").write_text(str(bound))
    if not bites(bound):
        raise SystemExit("the bound does not bite: nothing that follows would prove anything")
    print(f"bound {given.bound}: a process that takes 64M more is killed")
    init, _ = host.roots()
    home = Path("/sys/fs/cgroup/memory") / next(
        line.split(":", 2)[2].lstrip("/")
        for line in Path(f"/proc/{init}/cgroup").read_text().splitlines()
        if ":memory:" in line
    )
    killed = kills()
    try:
        # What the unit forks inherits the bound; init itself goes home again.
        (CGROUP / "cgroup.procs").write_text(str(init))
        host.run("sudo systemctl restart mysql 2>/dev/null || sudo systemctl restart mariadb")
    finally:
        (home / "cgroup.procs").write_text(str(init))
    (CGROUP / "memory.max_usage_in_bytes").write_text("0")
    _, before = host.roots()
    if str(before) not in (CGROUP / "cgroup.procs").read_text().split():
        raise SystemExit("the server is not inside the bound")
    host.sql(
        "DROP DATABASE IF EXISTS bench_memory; CREATE DATABASE bench_memory;"
        "CREATE TABLE bench_memory.t (id INT PRIMARY KEY, k INT, j INT, pad CHAR(200));"
    )
    for begin in range(0, given.rows, 2000):
        last = min(begin + 2000, given.rows)
        rows = ",".join(f"({n},{n * 7919 % 5000},{n},REPEAT('{n % 10}',200))" for n in range(begin, last))
        host.sql(f"INSERT INTO bench_memory.t VALUES {rows};")
    host.sql(
        "DROP USER IF EXISTS bench_memory@localhost;"
        f"CREATE USER bench_memory@localhost IDENTIFIED BY '{password}';"
        "GRANT SELECT ON bench_memory.* TO bench_memory@localhost;"
    )
    results, until, start = {"done": 0, "errors": []}, [float("inf")], threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/s"
        tunnel = host.forward(socket)
        threads = [
            threading.Thread(target=client, args=(n, socket, password, until, results, start), daemon=True)
            for n in range(given.clients)
        ]
        try:
            for thread in threads:
                thread.start()
                time.sleep(0.02)
            until[0] = time.monotonic() + given.seconds
            start.set()
            connected = 0
            while time.monotonic() < until[0]:
                time.sleep(2)
                connected = max(connected, int(host.sql("SHOW STATUS LIKE 'Threads_connected'").split()[-1]))
            for thread in threads:
                thread.join(180)
        finally:
            tunnel.terminate()
    _, after = host.roots()
    peak, oom = (
        figure("memory.max_usage_in_bytes"),
        int((CGROUP / "memory.oom_control").read_text().split()[-1]) - killed,
    )
    resident = next(
        int(line.split()[1]) * 1024
        for line in Path(f"/proc/{after or before}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    host.sql("DROP DATABASE bench_memory; DROP USER bench_memory@localhost;")
    print(
        f"{connected} connections at once, {results['done']} sorting queries, {len(results['errors'])} errors"
    )
    print(f"peak in the bound {units.human(peak)} (with file cache), of the process {units.human(resident)}")
    fine = before == after and not oom and results["done"] >= given.clients and not results["errors"]
    print(
        "survived"
        if fine
        else f"NOT survived: kills {oom}, process {before} -> {after}, {results['errors'][:3]}"
    )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
