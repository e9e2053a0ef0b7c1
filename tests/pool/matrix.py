#!/usr/bin/env python3
"""tests/pool over the versions: Python x Django x SQLAlchemy, each in a venv of its own under .cache/matrix.

    tests/pool/matrix.py [--quick] [PYTHON ...]     (POOL_TEST_SERVERS as for the tests)

A Python that this machine lacks is named and left out; exit status 1 where a run fails or none was possible.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "matrix"
ROWS = [
    ("3.11", "5.2", "2.0"),
    ("3.12", "5.2", "2.1"),
    ("3.12", "6.1", "2.0"),
    ("3.13", "6.1", "2.1"),
    ("3.14", "6.1", "2.1"),
]
PACKAGES = [
    "mysqlclient",
    "psycopg[binary]",
    "pytest",
    "pytest-timeout",
    "gunicorn",
    "prometheus_client",
    "celery",
    "uvicorn",
]


def python(version):
    """An interpreter of this version: on PATH, or among pyenv's."""
    found = shutil.which(f"python{version}")
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for one in [*(str(p) for p in reversed(pyenv)), found]:
        if (
            one
            and subprocess.run([one, "-c", "import venv"], capture_output=True, check=False).returncode == 0
        ):
            return one
    return None


def main():
    quick = "--quick" in sys.argv
    chosen = [a for a in sys.argv[1:] if not a.startswith("-")]
    failed = ran = 0
    for version, django, sqlalchemy in ROWS:
        if chosen and version not in chosen:
            continue
        name = f"Python {version}, Django {django}, SQLAlchemy {sqlalchemy}"
        interpreter = python(version)
        if interpreter is None:
            print(f"{name}: left out, no Python {version} here")
            continue
        venv = CACHE / f"{version}-{django}-{sqlalchemy}"
        if not (venv / "bin" / "pytest").exists():
            subprocess.run([interpreter, "-m", "venv", str(venv)], check=True)
            wanted = [f"Django~={django}.0", f"SQLAlchemy~={sqlalchemy}.0", *PACKAGES]
            subprocess.run([str(venv / "bin" / "pip"), "install", "-q", *wanted], check=True)
        command = [
            str(venv / "bin" / "python"),
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--timeout",
            "120",
        ]
        command += ["-k", "not pip"] + (["-x"] if quick else []) + [str(HERE)]
        done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.strip().splitlines() if line.startswith(("FAILED", "ERROR"))]
        print(f"{name}: {done.stdout.strip().splitlines()[-1]}", *lines[:10], sep="\n    ", flush=True)
        ran += 1
        failed += done.returncode != 0
    return 1 if failed or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
