"""The pool against real servers.

POOL_TEST_SERVERS names them (JSON, or a file that holds it): {"mysql": {"host", "port", "user", "password",
"restart": [argv]}, "mariadb": {...}, "postgresql": {...}}. `restart` is a command that restarts the server
and returns when it serves again. A server that is missing is an error, unless POOL_TEST_ALLOW_MISSING=1.
POOL_TEST_PACKAGE names a folder that holds another djorm_pool (the mutants use it).
"""

import faulthandler
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, os.environ.get("POOL_TEST_PACKAGE") or str(ROOT / "app"))
faulthandler.enable()

import helpers  # noqa: E402

helpers.configure()

CHOSEN = helpers.servers()
ALLOW_MISSING = os.environ.get("POOL_TEST_ALLOW_MISSING") == "1"


def _server(name):
    if name == "sqlite":
        return helpers.Server("sqlite", "sqlite3", {})
    if name not in CHOSEN:
        message = f"POOL_TEST_SERVERS names no {name} (see tests/pool/conftest.py)"
        if ALLOW_MISSING:
            pytest.skip(message)
        pytest.fail(message)
    engine = "postgresql" if name == "postgresql" else "mysql"
    return helpers.Server(name, engine, CHOSEN[name])


@pytest.fixture(params=["mysql", "mariadb"])
def server(request):
    """MySQL and MariaDB, one after the other."""
    found = _server(request.param)
    yield found
    found.clean()


@pytest.fixture(params=["mysql", "mariadb", "postgresql", "sqlite"])
def any_server(request):
    """Every database that the pool knows."""
    found = _server(request.param)
    yield found
    found.clean()


@pytest.fixture(params=["mysql", "mariadb", "postgresql"])
def net_server(request):
    """Every database that is reached through a socket."""
    found = _server(request.param)
    yield found
    found.clean()


@pytest.fixture
def both_servers():
    found = _server("mysql"), _server("mariadb")
    yield found
    for one in found:
        one.clean()


@pytest.fixture
def postgresql():
    found = _server("postgresql")
    yield found
    found.clean()


@pytest.fixture
def sqlite():
    found = _server("sqlite")
    yield found
    found.clean()


@pytest.fixture(autouse=True)
def _request_thread():
    """The test's main thread is in no request; what a test starts, it ends."""
    from djorm_pool import release

    release.request_finished()
    yield
    release.request_finished()
    helpers.drop_aliases()
