"""Under concurrent load: the server's connections stay within the pools' bound and are used again.

Writes through the proxy as clients do, while the server itself counts its sessions; the rows written are
taken away again. Short by default, so that it can be part of every deployment; LOAD_SECONDS makes it longer.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import threading
import time
import uuid

import pytest
from declared import connect, load, names_in

SECONDS = float(os.environ.get("LOAD_SECONDS", "0.8"))
CLIENTS = int(os.environ.get("LOAD_CLIENTS", "24"))
# Sessions besides the site's that may come and go meanwhile: ours, the monitor's, an administrator's.
OTHERS = 5


def applications(server: str) -> list[dict]:
    hosts = load()["hosts"]
    return [
        hosts[name]["django_app"]
        for name in names_in("application")
        if hosts[name]["plan"]["application"].get("server") == server
        and hosts[name]["django_app"]["reference_site"]
    ]


def leads_to(name: str) -> set[str]:
    """The database servers behind web host NAME."""
    hosts = load()["hosts"]
    upstreams = hosts[name]["web"]["upstreams"]
    behind = [
        other
        for other in names_in("application")
        if (other == name and any(upstream.startswith("unix:") for upstream in upstreams))
        or any(upstream.rpartition(":")[0] == hosts[other]["connection"]["host"] for upstream in upstreams)
    ]
    return {hosts[other]["plan"]["application"]["server"] for other in behind}


def proxies(server: str) -> list[tuple[str, dict]]:
    """Address and description of each web host before SERVER, and before no other."""
    hosts = load()["hosts"]
    found = []
    for name in names_in("web"):
        local = hosts[name]["connection"]["type"] == "local"
        if leads_to(name) == {server}:
            found.append(("127.0.0.1" if local else hosts[name]["connection"]["host"], hosts[name]["web"]))
    return found


def servers() -> list[str]:
    return [
        name
        for name in names_in("database")
        if load()["hosts"][name]["mysql"].get("managed") and applications(name) and proxies(name)
    ]


class Load:
    """Clients that write as fast as they are answered, and what came of it."""

    def __init__(self, targets: list[tuple[str, dict]], source: str) -> None:
        self.targets, self.source = targets, source
        self.stored: list[int] = []
        self.failures: list[str] = []
        self.end = 0.0

    def write(self, number: int) -> None:
        address, web = self.targets[number % len(self.targets)]
        host = web["server_names"][0] if web["server_names"] else address
        if web["tls"]:
            context = ssl._create_unverified_context()  # noqa: S323
            client = http.client.HTTPSConnection(address, web["https_port"], timeout=30, context=context)
        else:
            client = http.client.HTTPConnection(address, web["http_port"], timeout=30)
        headers = {"Host": host, "Content-Type": "application/json"}
        body = json.dumps({"text": "written under load", "source": self.source})
        while time.monotonic() < self.end:
            try:
                client.request("POST", "/journal/", body, headers)
                response = client.getresponse()
                said = response.read()
                if response.status == 201:
                    self.stored.append(json.loads(said)["id"])
                else:
                    self.failures.append(f"{response.status}: {said[:200]!r}")
            except (OSError, http.client.HTTPException) as problem:
                self.failures.append(f"{type(problem).__name__}: {problem}")
                client.close()
        client.close()

    def run(self) -> None:
        self.end = time.monotonic() + SECONDS
        threads = [threading.Thread(target=self.write, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


COUNT = """
client=$(command -v mariadb || command -v mysql)
$client --no-defaults --user=root --socket={socket} -BN -e "SHOW GLOBAL STATUS LIKE 'Connections'"
"""
# One session that watches: the site's sessions twenty times a second, then the counter again.
WATCH = """
client=$(command -v mariadb || command -v mysql)
{{ for i in $(seq {samples}); do
    echo "SELECT 'sessions', COUNT(*) FROM information_schema.processlist WHERE user = '{user}';"
    echo "DO SLEEP(0.05);"
  done
  echo "SHOW GLOBAL STATUS LIKE 'Connections';"
}} | $client --no-defaults --user=root --socket={socket} -BN --unbuffered
"""
TIDY = """
client=$(command -v mariadb || command -v mysql)
echo "SELECT COUNT(*) FROM journal_entry WHERE source = '{source}';
DELETE FROM journal_entry WHERE source = '{source}';" |
$client --no-defaults --user=root --socket={socket} -BN {database}
"""


@pytest.fixture(params=servers(), scope="module")
def under_load(request):
    """One burst of load for each server; every test below looks at the same one."""
    server = request.param
    apps, host = applications(server), connect(server)
    socket = load()["hosts"][server]["mysql"]["socket"]
    source = f"proof {uuid.uuid4().hex[:12]}"
    burst = Load(proxies(server), source)
    watch = WATCH.format(samples=int((SECONDS + 0.1) / 0.05), user=apps[0]["database_user"], socket=socket)
    seen = [host.run(COUNT.format(socket=socket))]
    watcher = threading.Thread(target=lambda: seen.append(host.run(watch)))
    watcher.start()
    burst.run()
    watcher.join()
    tidy = host.run(TIDY.format(source=source, socket=socket, database=apps[0]["database_name"]))
    rows = [line.split("\t") for run in seen for line in run.stdout.splitlines()]
    return {
        "server": server,
        "burst": burst,
        "bound": sum(app["connections"] for app in apps),
        "overflow": any(app["pool"]["max_overflow"] for app in apps),
        "sessions": [int(value) for key, value in rows if key == "sessions"],
        "made": [int(value) for key, value in rows if key == "Connections"],
        "rows": tidy.stdout.strip(),
        "err": "".join(run.stderr for run in (*seen, tidy)),
    }


def test_every_write_is_answered(under_load):
    burst = under_load["burst"]
    assert not burst.failures, (
        f"{len(burst.failures)} of {len(burst.stored)} failed, first: {burst.failures[0]}"
    )
    assert len(burst.stored) >= CLIENTS, "hardly anything was written; this was no load"


def test_every_acknowledged_row_is_stored_once(under_load):
    stored = under_load["burst"].stored
    assert len(set(stored)) == len(stored)
    assert under_load["rows"] == str(len(stored)), under_load["err"]


def test_peak_of_the_server_is_within_the_pools_bound(under_load):
    sessions = under_load["sessions"]
    assert sessions, under_load["err"]
    assert 0 < max(sessions) <= under_load["bound"]


def test_connections_are_used_again(under_load):
    before, after = under_load["made"]
    made, requests = after - before, len(under_load["burst"].stored)
    # Pools that were still filling may open up to their bound, never one for each request. A connection
    # beyond pool_size (max_overflow) is closed when it comes back to a full pool: a request may open it anew.
    overflow = requests // 10 if under_load["overflow"] else 0
    assert made <= under_load["bound"] + OTHERS + overflow
    assert made < requests / 2, f"{made} connections for {requests} requests"
