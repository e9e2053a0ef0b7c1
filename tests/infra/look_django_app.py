"""Runs on an application host, as root: one look at everything that test_django_app.py compares.

It judges nothing, and tells where it found a secret but never the secret. Standard library only; what to
look at comes as JSON in the first argument.
"""

import glob
import grp
import http.client
import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import tempfile

want = json.loads(sys.argv[1])
name, etc, home = want["name"], want["etc"], want["home"]


def run(*words):
    return subprocess.run(words, capture_output=True, text=True, errors="replace").stdout


def get(path, **headers):
    client = http.client.HTTPConnection("localhost", timeout=15)
    client.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.sock.settimeout(15)
    client.sock.connect(want["socket"])
    client.request("GET", path, headers={"Host": "localhost", "Connection": "close", **headers})
    response = client.getresponse()
    return {"status": response.status, "body": response.read().decode("utf-8", "replace")}


def facts_of(path):
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return {
        "mode": stat.S_IMODE(status.st_mode),
        "owner": pwd.getpwuid(status.st_uid).pw_name,
        "group": grp.getgrgid(status.st_gid).gr_name,
    }


def text(path, limit=2_000_000):
    try:
        with open(path, errors="replace") as file:
            return file.read(limit)
    except OSError:
        return ""


SHOW = (
    "ActiveState,UnitFileState,Restart,NRestarts,User,MainPID,NoNewPrivileges,ProtectSystem,PrivateUsers,"
    "PrivateTmp,CapabilityBoundingSet,LimitNOFILE,TimeoutStopUSec,FragmentPath,NeedDaemonReload,ExecStart"
)
found = {"units": {}}
for unit in (f"{name}.service", f"{name}-trial.service", f"{name}-next.service", f"{name}.socket"):
    lines = run("systemctl", "show", unit, "-p", SHOW).splitlines()
    found["units"][unit] = dict(line.partition("=")[::2] for line in lines)

exposed = run("systemd-analyze", "security", "--no-pager", f"{name}.service")
found["exposure"] = exposed.splitlines()[-1:]

# What runs beside gunicorn, and what its process was started with.
found["services"] = {}
for unit in want["services"]:
    lines = run(
        "systemctl", "show", unit, "-p", "ActiveState,UnitFileState,Restart,User,MainPID"
    ).splitlines()
    state = dict(line.partition("=")[::2] for line in lines)
    environ = dict(item.partition("=")[::2] for item in text(f"/proc/{state['MainPID']}/environ").split("\0"))
    state |= {key: environ.get(key) for key in ("DJANGO_APP_RELEASE", "POOL_SIZE", "POOL_MAX_OVERFLOW")}
    found["services"][unit] = state

current = os.path.realpath(os.path.join(home, "current"))
found["files"] = {
    path: facts_of(path)
    for path in (
        f"{etc}/environment",
        f"{etc}/ca.pem",
        f"{etc}/manage",
        f"/etc/systemd/system/{name}.service",
        f"/etc/systemd/system/{name}.socket",
        want["socket"],
        home,
        current,
    )
}
found["release"] = os.path.basename(current)
found["releases"] = [os.path.basename(path) for path in glob.glob(os.path.join(home, "releases", "*"))]

# What the service could write of its own code, in any release: everything there should be somebody else's.
uid = pwd.getpwnam(want["user"]).pw_uid if want["user"] in [p.pw_name for p in pwd.getpwall()] else -1
found["writable"] = []
readable = []
for root, folders, files in os.walk(home):
    if root == home:
        folders[:] = ["releases"]
    # Thousands of files of published packages; only their owner matters and that the top tells.
    if os.path.basename(root) == "site-packages":
        folders[:] = []
    for entry in (*folders, *files):
        path = os.path.join(root, entry)
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            continue
        if status.st_uid == uid or status.st_mode & 0o022:
            found["writable"].append(path)
        if status.st_mode & 0o004 and stat.S_ISREG(status.st_mode):
            readable.append(path)

# When the server last got other values for sessions, or another node took over.
found["renew"] = {
    alias: os.stat(path).st_mtime_ns if os.path.exists(path) else None
    for alias, path in want["renew_files"].items()
}

# Every secret of the environment file, looked for wherever others can read.
secrets, found["configured"] = {}, {}
for line in text(f"{etc}/environment").splitlines():
    key, _, value = line.partition("=")
    if key.startswith("POOL_") or key in ("DATABASE_ISOLATION", "DATABASE_LOCK_WAIT_TIMEOUT"):
        found["configured"][key] = value.strip('"')
    if any(word in key for word in ("SECRET", "PASSWORD", "TOKEN")) and len(value) > 8:
        secrets[key] = value.strip('"').replace("\\", "")
found["secrets"] = sorted(secrets)
places = [path for path in readable if os.path.getsize(path) < 1_000_000]
places += [
    path
    for pattern in (f"{etc}/*", "/etc/systemd/system/**", "/etc/nginx/**", "/proc/[0-9]*/cmdline")
    for path in glob.glob(pattern, recursive=True)
    if (facts_of(path) or {"mode": 0})["mode"] & 0o004 and os.path.isfile(path)
]
found["leaks"] = [
    [key, path]
    for path in places
    for content in [text(path)]
    for key, value in secrets.items()
    if value in content
]
shown = run("systemctl", "show", f"{name}.service")
found["leaks"] += [[key, "systemctl show"] for key, value in secrets.items() if value in shown]

prefix = want["prefix"]
found["http"] = {}
for key, path, headers in (
    ("healthz", f"{prefix}/healthz", {}),
    ("readyz", f"{prefix}/readyz", {}),
    ("status", f"{prefix}/pool.json?sessions=1", {}),
    ("page", f"{prefix}/pool/", {}),
    # A stranger, as our proxy would announce one; 203.0.113.0/24 belongs to nobody.
    ("stranger", f"{prefix}/pool.json", {"X-Forwarded-For": "203.0.113.7"}),
    ("liar", f"{prefix}/pool.json", {"X-Forwarded-For": "127.0.0.1, 203.0.113.7"}),
):
    try:
        found["http"][key] = get(path, **headers)
    except OSError as problem:
        found["http"][key] = {"status": 0, "body": str(problem)}
# The site's own settings, told to trust an authority that signed nothing of ours.
STRANGE = """
import django
django.setup()
from django.db import connection
try:
    connection.ensure_connection()
    print("connected")
except Exception as problem:
    print("refused:", type(problem).__name__, problem)
"""
found["strange_authority"] = ""
if want["tls"]:
    with tempfile.TemporaryDirectory() as folder:
        shutil.chown(folder, want["user"])
        ca, env = f"{folder}/ca.pem", f"{folder}/environment"
        run(
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "1", "-subj", "/CN=Somebody else", "-keyout", f"{folder}/key", "-out", ca),
        )
        with open(env, "w") as file:
            file.write(f"DATABASE_CA={ca}\nPOOL_TIMEOUT=1\n")
        found["strange_authority"] = run(
            *("systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--property=User={want['user']}"),
            *(f"--property=EnvironmentFile={etc}/environment", f"--property=EnvironmentFile={env}"),
            *(f"--property=WorkingDirectory={home}", f"{home}/current/run", "-c", STRANGE),
        ).strip()

# Worker processes as the kernel sees them, to compare with what the status says of "every" one.
master = found["units"][f"{name}.service"].get("MainPID", "0")
children = f"/proc/{master}/task/{master}/children"
found["workers"] = [int(pid) for pid in text(children).split()]
found["command"] = text(f"/proc/{master}/cmdline").replace("\0", " ")
limit = [
    line.split() for line in text(f"/proc/{master}/limits").splitlines() if line.startswith("Max open files")
]
found["nofile"] = int(limit[0][3]) if limit else 0
print(json.dumps(found))
