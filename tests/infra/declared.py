"""What the inventory declares, host by host, and how its hosts are reached.

``playbooks/verify.yml`` resolves it and hands it over as JSON, in the file that the environment variable
DECLARED names::

    {"hosts": {NAME: {"groups": [...], "connection": {"host", "port", "user", "key", "args", "type"},
                      "plan": {...}, "mysql": {...}, "django_app": {...}, "web": {...}}}}
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import testinfra


@functools.cache
def load() -> dict:
    """The declared state; a usage error of pytest where there is none."""
    path = os.environ.get("DECLARED")
    if not path:
        raise pytest.UsageError(
            "DECLARED is not set: these tests compare a deployment with what its inventory declares; "
            "run them with `make verify INVENTORY=inventories/NAME`"
        )
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def names_in(*groups: str) -> list[str]:
    """The names of the hosts that are in one of GROUPS."""
    return [name for name, host in load()["hosts"].items() if set(groups) & set(host["groups"])]


STARTS: list[Callable] = []


def at_once(names: list[str]) -> Callable:
    """Decorate a function of a host's name: STARTS starts it for all of NAMES at once; every result is kept.

    Fifty hosts then take hardly longer than one.
    """

    def decorate(function: Callable) -> Callable:
        @functools.cache
        def started() -> dict:
            pool = ThreadPoolExecutor(max_workers=16)
            return {name: pool.submit(function, name) for name in names}

        STARTS.append(started)
        return lambda name: started()[name].result()

    return decorate


def exposure_of(lines: list[str], unit: str, most: float, compare: Callable) -> None:
    """Compare the last line of `systemd-analyze security UNIT`: 0 is nothing to attack, 10 everything."""
    found = re.search(r"exposure level for \S+: ([0-9.]+)", " ".join(lines))
    live = float(found.group(1)) if found else "unknown"
    compare(f"exposure of {unit}", f"at most {most}", live, same=found is not None and live <= most)


def confinement_of(found: list[list[str]]) -> str:
    """The lines of /proc/PID/status that tell a confined process, in words."""
    return ", ".join(f"{key} {value}" for key, value in found) or "no process"


@functools.cache
def connect(name: str) -> testinfra.host.Host:
    """A testinfra host (commands run as root) for inventory host NAME."""
    connection = load()["hosts"][name]["connection"]
    if connection["type"] == "local":
        return testinfra.get_host("local://", sudo=os.geteuid() != 0)
    user = f"{connection['user']}@" if connection.get("user") else ""
    # testinfra reads ssh_extra_args from no URL, so all of them are handed over as arguments
    return testinfra.get_host(
        f"ssh://{user}{connection['host']}:{connection.get('port') or 22}",
        sudo=connection.get("user") != "root",
        controlpersist=60,
        ssh_identity_file=connection.get("key") or None,
        ssh_extra_args=connection.get("args") or None,
    )
