"""The sites of scenario `operations`: one on MySQL 9.7, one on MariaDB 11.8 with two application hosts."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))
import hosts  # noqa: E402
from hosts import Play  # noqa: E402, F401

FLEET = hosts.Hosts(ROOT / "molecule" / "operations" / "inventory")
INVENTORY = FLEET.inventory
SECRETS = INVENTORY / ".secrets"
on, play, deploy = FLEET.on, FLEET.play, FLEET.deploy
SERVERS = {"ops-mysql": "mysql", "ops-mariadb": "mariadb"}
ASK = """python3 -c 'from urllib.request import urlopen as u; print(u("http://127.0.0.1/pool.json").read().decode())'"""
ACCOUNTS = ("app", "migrate", "monitor", "operator")


def sql(host: str, statement: str) -> str:
    return on(host, f"{SERVERS[host]} -BN journal <<'END'\n{statement}\nEND")


def secrets() -> dict[str, str]:
    return {name: (SECRETS / f"mysql_{name}_password").read_text().strip() for name in ACCOUNTS}


def gets_in(host: str, account: str, password: str) -> bool:
    """Does this password open the account by the socket?"""
    words = f"{SERVERS[host]} --defaults-file=/dev/stdin --user={account} -e 'SELECT 1'"
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    login = f'[client]\npassword="{quoted}"'
    return (
        on(host, f"printf '%s' {shlex.quote(login)} | {words} >/dev/null 2>&1 && echo in || echo out") == "in"
    )


def server_start(host: str) -> str:
    return on(host, f"systemctl show {SERVERS[host]} -p InvocationID -p ExecMainStartTimestampMonotonic")


def session_values(variable: str) -> set[str]:
    """What the sessions of the site on MySQL have; MariaDB tells of no other session."""
    return set(
        sql(
            "ops-mysql",
            "SELECT v.VARIABLE_VALUE FROM performance_schema.variables_by_thread v"
            " JOIN performance_schema.threads t USING (THREAD_ID)"
            f" WHERE t.PROCESSLIST_USER = 'app' AND v.VARIABLE_NAME = '{variable}'",
        ).split()
    )


def renewed(host: str) -> set[int]:
    """Since when every worker's pool has had none but new sessions, as each says of itself."""
    return {worker["pools"]["default"]["renewed"] for worker in json.loads(on(host, ASK))["workers"]}


@contextlib.contextmanager
def load(rate: float = 30) -> Iterator[dict[str, hosts.Load]]:
    """Both sites under load; what was acknowledged is stored, once."""
    with contextlib.ExitStack() as stack:
        loads = {host: stack.enter_context(hosts.Load(FLEET.address(host), rate)) for host in SERVERS}
        for one in loads.values():
            one.wait_for(lambda answers: len(answers) > 20, 60, "answers before the change")
        yield loads
        for one in loads.values():
            before = one.answers
            one.wait_for(lambda answers, n=before: len(answers) > n + 20, 60, "answers after the change")
    for host, one in loads.items():
        assert one.stored(lambda text, host=host: sql(host, text)) == (len(one.acknowledged), 0)


def nothing_failed(loads: dict[str, hosts.Load]) -> None:
    assert {host: one.failures for host, one in loads.items()} == {host: [] for host in loads}
