#!/usr/bin/env python3
"""Django's own test suite, with the stock backend and with ours, on the same server; prints the difference.

    tests/conformance/run.py [--server NAME] [--switch apps|engine] [--all] [LABEL ...]

POOL_TEST_SERVERS names the servers (see tests/pool/conftest.py). Django's tests come from its sdist on PyPI,
of the installed version, into .cache/conformance; they are run, never committed. Exit status 1 where a test
ends otherwise with ours than with the stock backend, unless EXPECTED below explains it.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "conformance"
LABELS = [
    "backends", "transactions", "transaction_hooks", "atomic", "basic", "queries", "select_for_update",
    "test_runner", "test_utils", "servers", "handlers", "migrations", "schema", "inspectdb", "introspection",
    "serializers", "async",
]  # fmt: skip
# Tests that differ by design, with the reason. Nothing else may differ.
_PERSISTENT = "it asserts that CONN_MAX_AGE keeps the connection; a pooled one goes back after each request"
EXPECTED = {
    f"backends.base.test_base.ConnectionHealthChecksTests.{test}": _PERSISTENT
    for test in (
        "test_health_checks_disabled",
        "test_health_checks_enabled",
        "test_health_checks_enabled_errors_occurred",
        "test_set_autocommit_health_checks_enabled",
    )
}


def fetch():
    """Django's tests folder, unpacked once."""
    import django

    version = django.get_version()
    target = CACHE / f"django-{version}"
    if not (target / "tests" / "runtests.py").exists():
        print(f"fetching Django {version}'s sdist ...", flush=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "Django"]
        subprocess.run([*command, "-d", str(CACHE), f"Django=={version}"], check=True)
        archive = next(p for p in CACHE.glob("*.tar.gz") if version in p.name)
        with tarfile.open(archive) as found:
            found.extractall(CACHE, filter="data")
        unpacked = next(p for p in CACHE.glob("[Dd]jango-*") if p.is_dir() and p.name.endswith(version))
        if unpacked != target:
            unpacked.rename(target)
    return target / "tests"


def settings_file(name, where, switch):
    """A settings module for runtests.py."""
    folder = CACHE / "settings"
    folder.mkdir(parents=True, exist_ok=True)
    engine = "djorm_pool.backends.mysql" if switch == "engine" else "django.db.backends.mysql"
    database = {
        "ENGINE": engine,
        "USER": where["user"],
        "PASSWORD": where.get("password", ""),
        "HOST": where["host"],
        "PORT": str(where["port"]),
        "TEST": {"CHARSET": "utf8mb4"},
    }
    databases = {alias: {**database, "NAME": f"conf_{switch}_{alias}"} for alias in ("default", "other")}
    module = f"conformance_{name}_{switch}"
    (folder / f"{module}.py").write_text(
        f"DATABASES = {databases!r}\n"
        "SECRET_KEY = 'conformance'\n"
        "PASSWORD_HASHERS = ['django.contrib.auth.hashers.MD5PasswordHasher']\n"
        "DEFAULT_AUTO_FIELD = 'django.db.models.AutoField'\n"
        "USE_TZ = False\n"
        "TEST_RUNNER = 'recorder.Runner'\n"
    )
    return folder, module


def run(tests, name, where, switch, labels, log):
    """One run; {test id: outcome}."""
    folder, module = settings_file(name, where, switch)
    results = CACHE / f"{name}_{switch}.tsv"
    results.unlink(missing_ok=True)
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(folder), str(ROOT / "app"), str(tests)]),
        "CONFORMANCE_RESULTS": str(results),
        "CONFORMANCE_SWITCH": switch,
    }
    command = [
        sys.executable,
        str(HERE / "shim.py"),
        "--settings",
        module,
        "--parallel",
        "1",
        "--noinput",
        "-v0",
    ]
    start = time.monotonic()
    with open(log, "w") as out:
        subprocess.run(
            [*command, *labels], cwd=tests, env=env, stdout=out, stderr=subprocess.STDOUT, check=False
        )
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for line in results.read_text().splitlines():
            test, outcome = line.split("\t")
            found[test] = outcome
    counts = {o: list(found.values()).count(o) for o in sorted(set(found.values()))}
    print(f"  {switch:7} {len(found):6} tests in {time.monotonic() - start:5.0f} s  {counts}", flush=True)
    return found


def servers_named():
    """POOL_TEST_SERVERS: JSON, or the name of a file that holds it."""
    given = os.environ.get("POOL_TEST_SERVERS") or "{}"
    return json.loads(given if given.lstrip().startswith("{") else Path(given).read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", action="append", help="mysql, mariadb (default: both)")
    parser.add_argument("--switch", action="append", help="apps, engine (default: both)")
    parser.add_argument("--all", action="store_true", help="the whole suite (about an hour a run)")
    parser.add_argument("labels", nargs="*", help="default: the labels of issue 3")
    arguments = parser.parse_args()
    servers = servers_named()
    tests = fetch()
    known = {p.name for p in tests.iterdir() if p.is_dir()}
    labels = [] if arguments.all else [label for label in arguments.labels or LABELS if label in known]
    bad = 0
    for name in arguments.server or ["mysql", "mariadb"]:
        if name not in servers:
            sys.exit(f"POOL_TEST_SERVERS names no {name}")
        print(f"{name}: {' '.join(labels) or 'the whole suite'}", flush=True)
        stock = run(tests, name, servers[name], "stock", labels, CACHE / f"{name}_stock.log")
        if not stock:
            sys.exit(f"no test ran with the stock backend: see {CACHE}/{name}_stock.log")
        for switch in arguments.switch or ["apps", "engine"]:
            ours = run(tests, name, servers[name], switch, labels, CACHE / f"{name}_{switch}.log")
            for test in sorted(set(stock) | set(ours)):
                before, now = stock.get(test, "absent"), ours.get(test, "absent")
                if before != now:
                    reason = EXPECTED.get(test)
                    if before in ("FAIL", "ERROR"):
                        reason = "the stock backend failed here"
                    bad += reason is None
                    print(f"    {test}: stock {before}, ours {now}" + (f" ({reason})" if reason else ""))
    print("no unexplained difference" if not bad else f"{bad} unexplained differences")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
