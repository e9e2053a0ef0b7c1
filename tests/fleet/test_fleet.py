"""A whole fleet against one small server (scenario `fleet`): within the sum, also while all of it is taken.

The disaster that this project is for: an application takes every connection of the server, and nothing else
gets in. Here ours takes all that it may while a second application connects at once; then plain Django, with
the same processes and threads, locks that second application out.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shlex
import subprocess
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = os.environ.get("FLEET_INVENTORY", "")
SITES = ("app1", "app2", "app3")
PLAIN_PORT = 8100
TRIES = 20
THREADS = 144  # of the three hosts together, as the inventory says

# Django as it comes: no pool, a connection for each thread, kept.
PLAIN = """
from config.settings import *
INSTALLED_APPS = [app for app in INSTALLED_APPS if app not in ("djorm_pool", "status")]
MIDDLEWARE = [name for name in MIDDLEWARE if not name.startswith("status.")]
ROOT_URLCONF = "plain_urls"
ALLOWED_HOSTS = ["*"]
DATABASES["default"]["ENGINE"] = "django.db.backends.mysql"
DATABASES["default"]["USER"] = "plain"
DATABASES["default"]["PASSWORD"] = os.environ["PLAIN_PASSWORD"]
DATABASES["default"]["CONN_MAX_AGE"] = None
DATABASES["default"]["OPTIONS"].pop("pool", None)
"""
PLAIN_URLS = """
from django.urls import include, path
urlpatterns = [path("journal/", include("journal.urls"))]
"""


@pytest.fixture(scope="session")
def hosts() -> dict:
    """The inventory's hosts with their variables."""
    if not INVENTORY:
        raise pytest.UsageError("FLEET_INVENTORY is not set: run `molecule test -s fleet`")
    out = subprocess.run(
        ["ansible-inventory", "-i", INVENTORY, "--list"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return json.loads(out.stdout)["_meta"]["hostvars"]


class Host:
    """Commands as root on a host of the inventory, over SSH."""

    def __init__(self, variables: dict) -> None:
        self.address = variables["ansible_host"]
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

    def popen(self, *argv: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*self.words, shlex.join(argv)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )


@pytest.fixture(scope="session")
def fleet(hosts) -> dict[str, Host]:
    return {name: Host(variables) for name, variables in hosts.items()}


class Database:
    """The server as its administrator sees it, in one session that outlives every limit."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.client = host.popen("mariadb", "--batch", "--skip-column-names", "--unbuffered")
        self.number = 0

    def ask(self, *statements: str) -> list[str]:
        self.number += 1
        mark = f"--done {self.number}--"
        self.client.stdin.write("".join(f"{one};\n" for one in (*statements, f"SELECT '{mark}'")))
        self.client.stdin.flush()
        lines = []
        for line in self.client.stdout:
            if line.strip() == mark:
                return lines
            lines.append(line.rstrip("\n"))
        raise AssertionError(f"the administrator's session ended at {statements}")

    def sessions(self) -> dict[str, int]:
        rows = self.ask("SELECT user, COUNT(*) FROM information_schema.processlist GROUP BY user")
        return {user: int(count) for user, count in (row.split("\t") for row in rows)}

    @contextlib.contextmanager
    def held(self):
        """Every write waits, with its connection, until the block ends."""
        self.ask("LOCK TABLES journal.journal_entry WRITE")
        try:
            yield
        finally:
            self.ask("UNLOCK TABLES")


@pytest.fixture(scope="module")
def database(fleet):
    found = Database(fleet["db1"])
    yield found
    found.client.stdin.close()
    found.client.wait(10)


@pytest.fixture(scope="module")
def reports(fleet, database):
    """The second application: a function that connects anew so many times: [seconds, the server's error]."""
    password = secrets.token_hex(16)
    database.ask(f"CREATE OR REPLACE USER reports@'127.0.0.1' IDENTIFIED BY '{password}'")
    file = "/root/reports.cnf"
    fleet["db1"].must("install", "-m", "0600", "/dev/stdin", file, text=f"[client]\npassword={password}\n")
    # Times each connection on the server's host, so that no SSH is in the figure.
    script = (
        "import json, subprocess, sys, time\n"
        "out = []\n"
        "for _ in range(int(sys.argv[1])):\n"
        "    start = time.monotonic()\n"
        f"    run = subprocess.run(['mariadb', '--defaults-file={file}', '--user=reports',\n"
        "        '--protocol=tcp', '--host=127.0.0.1', '--execute=SELECT 1'],\n"
        "        capture_output=True, text=True)\n"
        "    out.append([time.monotonic() - start, run.stderr.strip() if run.returncode else ''])\n"
        "print(json.dumps(out))\n"
    )

    def connect(times: int = TRIES) -> list:
        return json.loads(fleet["db1"].must("python3", "-c", script, str(times)))

    yield connect
    fleet["db1"].run("rm", "-f", file)
    database.ask("DROP USER IF EXISTS reports@'127.0.0.1'")


class Writers:
    """Clients that each write rows to one address; what they were answered."""

    def __init__(self, targets: list[tuple[str, int]], clients: int, each: int) -> None:
        self.stored, self.failed = [], []
        self.threads = [
            threading.Thread(target=self.work, args=(*targets[number % len(targets)], each), daemon=True)
            for number in range(clients)
        ]
        for thread in self.threads:
            thread.start()

    def work(self, address: str, port: int, each: int) -> None:
        client = http.client.HTTPConnection(address, port, timeout=60)
        body = json.dumps({"text": "fleet", "source": "fleet"})
        for _ in range(each):
            try:
                client.request(
                    "POST", "/journal/", body, {"Content-Type": "application/json", "Host": address}
                )
                response = client.getresponse()
                said = response.read()
                (self.stored if response.status == 201 else self.failed).append((response.status, said[:200]))
            except (OSError, http.client.HTTPException) as problem:
                self.failed.append((0, str(problem)))
                client.close()
        client.close()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(120)


def wait_for(condition, what: str, seconds: float = 20):
    """Until CONDITION returns something true; that is returned."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return found


def pools(variables: dict) -> int:
    """What the processes of an application host may hold, by its own inventory variables."""
    each = variables["django_app_pool_size"] + variables.get("django_app_pool_max_overflow", 0)
    services = variables.get("django_app_services", [])
    return variables["django_app_workers"] * each + sum(s["processes"] * s["pool_size"] for s in services)


@pytest.fixture(scope="session")
def bound(hosts) -> int:
    return sum(pools(hosts[name]) for name in (*SITES, "worker1"))


def tell(text: str) -> None:
    print(f"\nmeasured: {text}", flush=True)


STATUS = """
import http.client, socket
client = http.client.HTTPConnection("localhost")
client.sock = socket.socket(socket.AF_UNIX)
client.sock.connect("/run/django-app.sock")
client.request("GET", "/pool.json")
print(client.getresponse().read().decode())
"""


def test_each_host_runs_its_own_values(fleet, hosts):
    for name in SITES:
        status = json.loads(fleet[name].must("python3", "-c", STATUS))
        sizes = {worker["pools"]["default"]["options"]["pool_size"] for worker in status["workers"]}
        assert (len(status["workers"]), sizes) == (
            hosts[name]["django_app_workers"],
            {hosts[name]["django_app_pool_size"]},
        ), name


def test_every_account_has_its_hosts_limit(hosts, database):
    rows = database.ask("SELECT host, max_user_connections FROM mysql.user WHERE user = 'app'")
    limits = dict(row.split("\t") for row in rows)
    assert set(limits) == {hosts[name]["ansible_host"] for name in (*SITES, "worker1")}
    for name in (*SITES, "worker1"):
        # Two generations while a release changes over, commands, and some that are being torn down.
        assert pools(hosts[name]) < int(limits[hosts[name]["ansible_host"]]) < 3 * pools(hosts[name]) + 6, (
            name
        )
    others = hosts["db1"]["mysql_other_users"][0]["connections"]
    assert sum(map(int, limits.values())) + others <= hosts["db1"]["mysql_max_connections"]


def test_a_host_that_breaks_the_sum_is_refused_for_all(tmp_path):
    run = subprocess.run(
        ["ansible-playbook", "-i", INVENTORY, "playbook.yml", "-e", "django_app_pool_size=40"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    said = " ".join((run.stdout + run.stderr).split())
    assert run.returncode != 0
    assert "mysql_max_connections=130: cannot hold" in said and "mend: set" in said
    assert "Look at every host" not in said, "a host was touched first"


def test_load_from_everywhere_stays_within_the_sum(fleet, hosts, database, bound):
    before = int(database.ask("SELECT COUNT(*) FROM journal.journal_entry WHERE source = 'fleet'")[0])
    tasks = (
        "from journal.tasks import write\nfor number in range(200): write.delay(f'task {number}', 'celery')\n"
    )
    sender = fleet["worker1"].popen("/etc/django-app/manage", "shell", "--command", tasks)
    writers = Writers([(fleet["web1"].address, 80)], 90, 20)
    peak = {}
    while any(thread.is_alive() for thread in writers.threads):
        for user, count in database.sessions().items():
            peak[user] = max(peak.get(user, 0), count)
    writers.join()
    sender.wait(60)
    assert not writers.failed, f"{len(writers.failed)} requests failed, first: {writers.failed[0]}"
    assert len(writers.stored) == 1800
    rows = int(database.ask("SELECT COUNT(*) FROM journal.journal_entry WHERE source = 'fleet'")[0]) - before
    assert rows == 1800
    done = "SELECT COUNT(*) FROM journal.journal_entry WHERE source = 'celery'"
    wait_for(lambda: int(database.ask(done)[0]) >= 200, "200 rows written by Celery's workers", 60)
    tell(f"1800 requests through three hosts, 200 tasks: peak {peak['app']} connections, {bound} allowed")
    # management commands have a pool of their own, counted in the account's limit
    assert 0 < peak["app"] <= bound + hosts["worker1"].get("django_app_management_connections", 2)


def test_second_application_connects_at_once_while_ours_is_saturated(fleet, hosts, database, reports):
    full = sum(pools(hosts[name]) for name in SITES)
    with database.held():
        writers = Writers([(fleet[name].address, 8000) for name in SITES], THREADS, 1)
        seen = wait_for(
            lambda: (count := database.sessions().get("app", 0)) >= full and count,
            f"{full} connections taken",
        )
        tried = reports()
    writers.join()
    assert [error for _, error in tried if error] == []
    slowest = max(seconds for seconds, _ in tried)
    tell(
        f"ours saturated with {seen} connections: the second application connected {TRIES} times, "
        f"slowest {slowest * 1000:.0f} ms"
    )
    assert slowest < 1
    assert not writers.failed, f"{len(writers.failed)} of ours failed, first: {writers.failed[0]}"


@pytest.fixture
def plain(fleet, hosts, database):
    """Plain Django on the same hosts with the same processes and threads, and an account without a limit."""
    password = secrets.token_hex(16)
    database.ask(
        f"CREATE OR REPLACE USER plain@'10.89.77.%' IDENTIFIED BY '{password}' REQUIRE SSL",
        "GRANT SELECT, INSERT ON journal.* TO plain@'10.89.77.%'",
    )
    for name in SITES:
        host, variables = fleet[name], hosts[name]
        host.must("mkdir", "-p", "/opt/plain")
        host.must("install", "-m", "0644", "/dev/stdin", "/opt/plain/plain_settings.py", text=PLAIN)
        host.must("install", "-m", "0644", "/dev/stdin", "/opt/plain/plain_urls.py", text=PLAIN_URLS)
        environment = f"PLAIN_PASSWORD={password}\n"
        host.must("install", "-m", "0600", "/dev/stdin", "/opt/plain/environment", text=environment)
        host.must(
            *("systemd-run", "--unit=plain", "--collect", "--uid=django_app"),
            *("-p", "EnvironmentFile=/etc/django-app/environment"),
            *("-p", "EnvironmentFile=/opt/plain/environment"),
            *("-p", "WorkingDirectory=/srv/django-app/current/app"),
            *("/usr/bin/env", "DJANGO_SETTINGS_MODULE=plain_settings"),
            *("PYTHONPATH=/opt/plain:/srv/django-app/current/app:/srv/django-app/current/overlay",),
            *("/srv/django-app/current/venv/bin/python", "-m", "gunicorn", "--worker-class", "gthread"),
            *("--workers", str(variables["django_app_workers"])),
            *("--threads", str(variables["django_app_threads"])),
            *("--no-control-socket", "--bind", f"{host.address}:{PLAIN_PORT}"),
            "django.core.wsgi:get_wsgi_application()",
        )
    for name in SITES:
        wait_for(lambda h=fleet[name]: serves(h.address), f"plain Django answers on {name}")
    yield [(fleet[name].address, PLAIN_PORT) for name in SITES]
    for name in SITES:
        fleet[name].run("systemctl", "stop", "plain")
        fleet[name].run("rm", "-r", "/opt/plain")
    database.ask("DROP USER IF EXISTS plain@'10.89.77.%'")


def serves(address: str) -> bool:
    client = http.client.HTTPConnection(address, PLAIN_PORT, timeout=5)
    try:
        client.request("GET", "/journal/")
        return client.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        client.close()


def test_plain_django_locks_the_second_application_out(hosts, database, reports, plain):
    most = hosts["db1"]["mysql_max_connections"]
    with database.held():
        # Workers share a listener unevenly: three requests for each thread, so that every thread has one.
        writers = Writers(plain, 3 * THREADS, 1)
        wait_for(lambda: sum(database.sessions().values()) >= most, f"all {most} connections taken")
        tried = reports()
    writers.join()
    refused = [error for _, error in tried if "1040" in error]
    tell(
        f"plain Django took every connection: the second application was refused {len(refused)} of {TRIES} "
        f"times with error 1040, and {len(writers.failed)} of its own {3 * THREADS} requests failed"
    )
    assert len(refused) == TRIES, tried
