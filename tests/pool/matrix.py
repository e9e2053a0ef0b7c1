#!/usr/bin/env python3
"""tests/pool over the versions: Python x Django x SQLAlchemy, each in a venv of its own under .cache/matrix.

    tests/pool/matrix.py [--quick] [PYTHON ...]     (POOL_TEST_SERVERS as for the tests)

A Python that this machine lacks is sought on the host of tests/pool/servers.yml that has Debian sid, and used
there; one that neither has is named and left out. Exit status 1 where a run fails or none was possible.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "matrix"
PODMAN, SID = str(ROOT / "roles" / "sandbox" / "files" / "podman"), "pool-mysql"
THERE = "/opt/matrix"
SET_UP_THERE = f"""
set -e
rm -rf {THERE}
mkdir {THERE}
tar -x --no-same-owner -C {THERE}
exec </dev/null
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -qy --no-remove --no-install-recommends install gcc libmysqlclient-dev openssh-client pkg-config \\
  python3-dev python3-venv
"""
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


def there(version):
    """Whether the host with Debian sid has this version."""
    ask = [PODMAN, "exec", SID, f"python{version}", "--version"]
    return subprocess.run(ask, capture_output=True, check=False).returncode == 0


def tests(python, folder):
    return [
        python,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--timeout",
        "120",
        "-k",
        "not pip",
        folder,
    ]


def run_here(interpreter, venv, wanted, more):
    if not (venv / "bin" / "pytest").exists():
        subprocess.run([interpreter, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "pip"), "install", "-q", *wanted], check=True)
    command = [*tests(str(venv / "bin" / "python"), str(HERE)), *more]
    return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)


def run_there(version, wanted, more):
    """The pool, its tests and the way to restart the servers are taken there."""
    servers = json.loads(Path(os.environ["POOL_TEST_SERVERS"]).read_text())
    files = {"key": "", "hosts": ""}
    for server in servers.values():
        words = server["restart"]
        files["key"] = words[words.index("-i") + 1]
        files["hosts"] = next(w for w in words if w.startswith("UserKnownHostsFile=")).partition("=")[2]
        moved = {
            files["key"]: f"{THERE}/key",
            f"UserKnownHostsFile={files['hosts']}": f"UserKnownHostsFile={THERE}/hosts",
        }
        server["restart"] = [moved.get(word, word) for word in words]
    with tempfile.TemporaryDirectory() as folder:
        taken = Path(folder)
        for name in ("app", "tests/pool", "tests/fixtures"):
            shutil.copytree(ROOT / name, taken / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", taken)
        for name, file in files.items():
            shutil.copy(file, taken / name)
            (taken / name).chmod(0o600)
        (taken / "servers.json").write_text(json.dumps(servers))
        tar = subprocess.run(["tar", "-c", "-C", folder, "."], stdout=subprocess.PIPE, check=True)
    on_it = [PODMAN, "exec", "--interactive", "--workdir", "/", SID]
    subprocess.run(
        [*on_it, "sh", "-c", SET_UP_THERE], input=tar.stdout, stdout=subprocess.DEVNULL, check=True
    )
    subprocess.run([*on_it, f"python{version}", "-m", "venv", f"{THERE}/venv"], check=True)
    subprocess.run([*on_it, f"{THERE}/venv/bin/pip", "install", "-q", *wanted], check=True)
    command = ["env", "-C", THERE, f"POOL_TEST_SERVERS={THERE}/servers.json"]
    command += [*tests(f"{THERE}/venv/bin/python", f"{THERE}/tests/pool"), *more]
    return subprocess.run([*on_it, *command], capture_output=True, text=True, check=False)


def main():
    more = ["-x"] if "--quick" in sys.argv else []
    chosen = [a for a in sys.argv[1:] if not a.startswith("-")]
    failed = ran = 0
    for version, django, sqlalchemy in ROWS:
        if chosen and version not in chosen:
            continue
        name = f"Python {version}, Django {django}, SQLAlchemy {sqlalchemy}"
        wanted = [f"Django~={django}.0", f"SQLAlchemy~={sqlalchemy}.0", *PACKAGES]
        if interpreter := python(version):
            done = run_here(interpreter, CACHE / f"{version}-{django}-{sqlalchemy}", wanted, more)
        elif there(version):
            name += ", on Debian sid"
            done = run_there(version, wanted, more)
        else:
            print(f"{name}: left out, no Python {version} here")
            continue
        lines = [line for line in done.stdout.strip().splitlines() if line.startswith(("FAILED", "ERROR"))]
        last = (done.stdout.strip() or done.stderr.strip() or "nothing was said").splitlines()[-1]
        print(f"{name}: {last}", *lines[:10], sep="\n    ", flush=True)
        ran += 1
        failed += done.returncode != 0
    return 1 if failed or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
