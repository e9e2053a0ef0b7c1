"""The hosts of scenario `release`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))
import hosts  # noqa: E402
import reference_releases  # noqa: E402
from hosts import DEPLOY, Play  # noqa: E402, F401

SOURCE = ROOT / ".cache" / "release"
APPLICATIONS = ("release-app1", "release-app2")
WEB = "release-web"
FLEET = hosts.Hosts(ROOT / "molecule" / "release" / "inventory")
INVENTORY = FLEET.inventory
on, play, deploy = FLEET.on, FLEET.play, FLEET.deploy


def sql(statement: str) -> str:
    return on(WEB, f"mariadb -BN journal <<'END'\n{statement}\nEND")


def release_of(host: str) -> str:
    return on(host, "basename $(readlink /srv/django-app/current)")


def make(number: int, change: Callable[[Path], None] = lambda folder: None) -> None:
    """What the next deployment deploys: release NUMBER of the reference site, with CHANGE made to it."""
    reference_releases.make(SOURCE, number)
    change(SOURCE)


class Load(hosts.Load):
    """On the site as its users see it."""

    def __init__(self, rate: float = 40, clients: int = 12) -> None:
        super().__init__(FLEET.address(WEB), rate, clients)

    def stored(self) -> tuple[int, int]:
        return super().stored(sql)
