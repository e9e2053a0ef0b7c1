#!/usr/bin/python
# One job a step, each in one round trip: what a host needs to run a release, and how it changes over.

import contextlib
import fcntl
import fnmatch
import glob
import hmac
import http.client
import json
import os
import platform
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: django_app_release
short_description: Build, migrate and activate releases of a Django project
description:
  - Used by the role of the same name through its action plugin, which works out on the controller what the
    release consists of and carries files there.
  - Nothing is activated before it was built, checked and asked for its health beside the running release.
options:
  step:
    description: C(probe), C(look) and C(kept) read, C(wheels) and C(build) prepare, C(migrate) changes the
      schema, C(activate) puts a release in service.
    type: str
    required: true
    choices: [probe, wheels, build, migrate, look, activate, kept]
  name: {description: "Name of units and folders.", type: str, required: true}
  home: {description: "Folder of the releases.", type: path, required: true}
  user: {description: "The service's user.", type: str, required: true}
  release: {description: "The release's id.", type: str}
  archive: {description: "The release's files on this host.", type: path}
  wheels: {description: "The wheel set's id.", type: str}
  wheels_archive: {description: "The wheel set on this host.", type: path}
  requirements: {description: "Requirement files in the archive.", type: list, elements: str, default: []}
  migrations: {description: "The project's migrations.", type: list, elements: str, default: []}
  packages: {description: "Packages the service needs.", type: list, elements: str, default: []}
  build_packages: {description: "Packages a wheel build needs.", type: list, elements: str, default: []}
  client_library: {description: "Its maker.", type: str, default: auto, choices: [auto, mysql, mariadb]}
  keep_build_packages: {description: "Leave them installed.", type: bool, default: false}
  project_settings: {description: "The project's settings module.", type: str}
  environment: {description: "What the service reads from its environment.", type: dict, default: {}}
  renewal: {description: "A fingerprint of what the server gives new sessions.", type: str}
  renew_also: {description: "The files of others that pools watch.", type: list, elements: str, default: []}
  secret_environment: {description: "The same, secret.", type: dict, default: {}}
  units: {description: "Unit files by name.", type: dict, default: {}}
  services: {description: "Those of them that run beside gunicorn.", type: list, elements: str, default: []}
  ca: {description: "Certificate authority of the database server.", type: str}
  socket: {description: "The service's unix socket.", type: path}
  health_path: {description: "Address that must answer.", type: str}
  health_timeout: {description: "Seconds until a release must be healthy.", type: int, default: 20}
  settle_seconds: {description: "Seconds it must stay so.", type: int, default: 0}
  workers: {description: "Worker processes.", type: int, default: 1}
  overlap: {description: "Generations of workers alive at once.", type: int, default: 2}
  keep: {description: "Releases kept.", type: int, default: 3}
author: [the project]
"""

# The client library's packages. Where a distribution has MySQL's own (Debian sid, Ubuntu), that one:
# MariaDB's brings mariadb-common there, which conflicts with mysql-server: apt would remove the server.
MARIADB_CLIENT = ("libmariadb3", "libmariadb-dev")
MYSQL_CLIENT = {
    "debian-forky": ("libmysqlclient24", "libmysqlclient-dev"),
    "debian-sid": ("libmysqlclient24", "libmysqlclient-dev"),
    "ubuntu-24.04": ("libmysqlclient21", "libmysqlclient-dev"),
}
# A repository of the user's choice may have any version; the development package brings the one that fits.
MYSQL_CLIENT_ANYWHERE = ("libmysqlclient-dev", "libmysqlclient-dev")
SYSTEM_PYTHON = "/usr/bin/python3"
BASE_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}
MARK = "release.json"
# Seconds to wait for another run on this host: one whose controller was killed works on for a while.
LOCK_WAIT = 300


class Failure(Exception):
    """What happened, for the reader; `details` are the tool's own last lines."""

    def __init__(self, message, details=""):
        super().__init__(message)
        self.details = details


def tail(text, lines=25):
    return "\n".join((text or "").strip().splitlines()[-lines:])


def run(argv, check=None, **kwargs):
    """Run and capture; `check` is the message to fail with."""
    done = subprocess.run(  # noqa: S603 (a list, no shell)
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        **kwargs,
    )
    if check and done.returncode:
        raise Failure(check, tail(done.stdout))
    return done


def python_version():
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return run([SYSTEM_PYTHON, "-c", code]).stdout.strip()


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_all(files):
    """Whole files or none, path -> (content, mode, gid): all are on the disk before one takes its place."""
    try:
        for path, (content, mode, gid) in files.items():
            handle = os.open(path + ".part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                os.fchown(handle, 0, gid)
                os.fchmod(handle, mode)
                file.write(content)
    except OSError:
        for path in files:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + ".part")
        raise
    for path in files:
        os.replace(path + ".part", path)


def write(path, content, mode):
    write_all({path: (content, mode, 0)})


def link(path, target):
    part = path + ".part"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part)
    os.symlink(target, part)
    os.replace(part, path)


def quoted(value):
    """A value as both systemd's EnvironmentFile= and a shell read it."""
    text = str(value)
    if "\n" in text or "\0" in text:
        raise Failure("a value of the environment has a line break in it")
    for char in '\\"`$':
        text = text.replace(char, "\\" + char)
    return f'"{text}"'


def ask(path, command, timeout=5.0):
    """One question to a worker process; None when nobody is there."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(timeout)
            client.connect(path)
            client.sendall(command.encode())
            data = b""
            while chunk := client.recv(65536):
                data += chunk
            return json.loads(data)
    except (OSError, ValueError):
        return None


class Host:
    def __init__(self, module):
        self.module = module
        self.p = module.params
        self.name, self.home, self.user = self.p["name"], self.p["home"], self.p["user"]
        self.etc = f"/etc/{self.name}"
        self.main = f"{self.name}.service"
        self.trial = f"{self.name}-trial.service"
        self.next = f"{self.name}-next.service"
        self.listener = f"{self.name}.socket"
        self.restarted = False

    def alone(self):
        """Wait until no other run changes this host; the kernel lets go when this process ends, however."""
        self.lock = open(f"/run/{self.name}-release.lock", "a+", encoding="utf-8")  # noqa: SIM115 (held)
        deadline = time.monotonic() + LOCK_WAIT
        while True:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self.lock.seek(0)
                    raise Failure(
                        f"another run has been at work on this host for {LOCK_WAIT} s (process "
                        f"{self.lock.read().strip()}); nothing was changed"
                    ) from None
                time.sleep(0.2)
        self.lock.truncate(0)
        self.lock.write(str(os.getpid()))
        self.lock.flush()

    # ---- what is there ---------------------------------------------------------------------------
    def path(self, *parts):
        return os.path.join(self.home, *parts)

    def current(self):
        try:
            return os.path.basename(os.readlink(self.path("current")))
        except OSError:
            return None

    def releases(self):
        """Complete releases, the latest in service first."""
        found = []
        for mark in glob.glob(self.path("releases", "*", MARK)):
            name = os.path.basename(os.path.dirname(mark))
            stamp = self.path("releases", name, "activated")
            found.append(
                (os.path.getmtime(stamp) if os.path.exists(stamp) else 0, os.path.getmtime(mark), name)
            )
        return [name for _, _, name in sorted(found, reverse=True)]

    def workers_sockets(self, unit):
        return sorted(glob.glob(f"/run/{self.name}/{unit}/worker-*.sock"))

    def account(self):
        try:
            return pwd.getpwnam(self.user)
        except KeyError:
            return None

    def environment(self):
        return {**self.p["environment"], **self.p["secret_environment"]}

    # ---- steps -----------------------------------------------------------------------------------
    def probe(self):
        release = {}
        for line in (read("/etc/os-release") or "").splitlines():
            key, _, value = line.partition("=")
            release[key] = value.strip('"')
        version = None
        if os.path.exists(SYSTEM_PYTHON):
            if os.path.realpath(sys.executable) == os.path.realpath(SYSTEM_PYTHON):
                version = ".".join(map(str, sys.version_info[:2]))
            else:
                version = python_version()
        number = release.get("VERSION_ID") or release.get("VERSION_CODENAME")
        distribution = f"{release.get('ID', 'linux')}-{number}"
        there = self.installed()
        library = self.p["client_library"]
        if library == "auto":
            mysql = distribution in MYSQL_CLIENT or "mysql-community-server" in there
            library = "mysql" if mysql else "mariadb"
        client, headers = MARIADB_CLIENT
        if library == "mysql":
            client, headers = MYSQL_CLIENT.get(distribution, MYSQL_CLIENT_ANYWHERE)
        packages = [*self.p["packages"], client]
        current = self.current()
        pending = None
        for path in self.workers_sockets("main"):
            said = ask(path, "migrations")
            if said and "pending" in said:
                pending = said["pending"]
                break
        account = self.account()
        return {
            "changed": False,
            "distribution": distribution,
            "client_library": library,
            "packages": packages,
            "build_packages": [*self.p["build_packages"], headers],
            "python": version,
            "machine": platform.machine(),
            "missing_packages": [name for name in packages if name not in there],
            "user_exists": account is not None and account.pw_dir == self.home,
            "deployed": os.path.exists(f"{self.etc}/environment"),
            "current": current,
            "releases": self.releases(),
            "wheel_sets": [os.path.basename(path) for path in glob.glob(self.path("wheels", "*"))],
            "pending": pending,
            # Check mode has no release that could be asked.
            "new_migrations": [
                path for path in self.p["migrations"] if not os.path.exists(self.path("current", path))
            ],
        }

    def tools(self):
        """pip, once per host and Python, for building and for filling every release's environment."""
        folder = self.path(f"tools-{python_version()}")
        if not os.path.exists(os.path.join(folder, "ready")):
            shutil.rmtree(folder, ignore_errors=True)
            run([SYSTEM_PYTHON, "-m", "venv", folder], "no virtual environment can be made (python3-venv?)")
            write(os.path.join(folder, "ready"), "", 0o644)
        return os.path.join(folder, "bin", "python")

    def unpack(self, archive, folder):
        # Our own controller's archive; early 3.11 has no filters yet.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        with tarfile.open(archive) as tar:
            tar.extractall(folder, **safely)  # noqa: S202 (ours)

    def installed(self):
        text = run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"]).stdout
        return {line.split()[0] for line in text.splitlines() if line.endswith(" installed")}

    def fetch(self, work, env):
        """Make pip and fetch what needs no compiler, while apt installs one. Failing costs only time."""
        with contextlib.suppress(Failure, OSError):
            pip = [self.tools(), "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            lines = (read(os.path.join(work, "requirements.txt")) or "").splitlines()
            names = [line for line in lines if line and not line.startswith(("mysqlclient", "#"))]
            run([*pip, "--dest", os.path.join(work, "fetched"), *names, "setuptools>=77"], env=env)

    def wheels(self):
        """Every wheel the project needs, compiled where need be; the controller takes them to all others."""
        folder = self.path("wheels", self.p["wheels"])
        work = self.path("build")
        shutil.rmtree(work, ignore_errors=True)
        self.unpack(self.p["archive"], work)
        # Never at the price of another package: that could be somebody's database server.
        apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120"]
        apt_env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
        before = self.installed()
        extra = [name for name in self.p["build_packages"] if name not in before]
        # A cache of this build's own: one kept by somebody else may hold wheels for another client library.
        pip_env = {**os.environ, "PIP_CACHE_DIR": os.path.join(work, "cache")}
        fetching = threading.Thread(target=self.fetch, args=(work, pip_env))
        fetching.start()
        try:
            if extra:
                install = [*apt, "install", "--no-install-recommends", "--no-remove", *extra]
                if run(install, env=apt_env).returncode:
                    # Lists that were never fetched, or are older than the mirror's files.
                    run([*apt, "update"], "apt-get update failed", env=apt_env)
                    run(install, "the packages to build wheels with cannot be installed", env=apt_env)
            fetching.join()
            argv = [
                self.tools(),
                "-m",
                "pip",
                "wheel",
                "--quiet",
                "--wheel-dir",
                os.path.join(work, "wheels"),
            ]
            for file in self.p["requirements"]:
                argv += ["-r", os.path.join(work, file)]
            run(
                argv, "the project's requirements cannot be built", cwd=os.path.join(work, "app"), env=pip_env
            )
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(os.path.dirname(folder), exist_ok=True)
            os.rename(os.path.join(work, "wheels"), folder)
        finally:
            fetching.join()
            shutil.rmtree(work, ignore_errors=True)
            added = sorted(self.installed() - before)
            if added and not self.p["keep_build_packages"]:
                run([*apt, "purge", *added], env=apt_env)
        pack = self.path("wheels", self.p["wheels"] + ".tar")
        with tarfile.open(pack, "w") as tar:
            for file in sorted(os.listdir(folder)):
                tar.add(os.path.join(folder, file), arcname=file)
        return {"changed": True, "archive": pack, "files": sorted(os.listdir(folder))}

    def fill(self, venv, set_):
        """The wheel set's packages: linked from a release that has the very same, else installed."""
        packages = os.path.join("lib", "python" + python_version(), "site-packages")
        for other in self.releases():
            mark = json.loads(read(self.path("releases", other, MARK)) or "{}")
            there = self.path("releases", other, "venv", packages)
            if mark.get("wheels") == os.path.basename(set_) and os.path.isdir(there):
                # Files there are never written again, so releases may share them; folders are each one's own.
                shutil.copytree(
                    there,
                    os.path.join(venv, packages),
                    copy_function=os.link,
                    symlinks=True,
                    dirs_exist_ok=True,
                )
                return
        python = os.path.join(venv, "bin", "python")
        pip = [self.tools(), "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps"]
        wheels = sorted(glob.glob(os.path.join(set_, "*.whl")))
        run([*pip, "--no-compile", *wheels], "the release's packages cannot be installed")
        run([python, "-m", "compileall", "-q", "-j", "0", os.path.join(venv, "lib")])

    def manage(self, release, argv, message):
        """Run the release's own Python as the service's user; the verdict is the last line of its output."""
        account = self.account()
        folder = self.path("releases", release)
        env = {**BASE_ENVIRONMENT, **{key: str(value) for key, value in self.environment().items()}}
        with tempfile.NamedTemporaryFile("w", prefix=f"{self.name}-ca-") as ca:
            if self.p["ca"]:
                # The service's own copy changes only when the release is put in service.
                ca.write(self.p["ca"])
                ca.flush()
                os.chmod(ca.name, 0o644)
                env["DATABASE_CA"] = ca.name
            done = run(
                [os.path.join(folder, "run"), *argv],
                cwd=folder,
                env=env,
                user=account.pw_uid,
                group=account.pw_gid,
                extra_groups=[],
                umask=0o022,
            )
        try:
            verdict = json.loads(done.stdout.strip().splitlines()[-1])
        except (ValueError, IndexError):
            verdict = {}
        if done.returncode or not verdict.get("ok"):
            raise Failure(message, verdict.get("error") or tail(done.stdout))
        return verdict, done.stdout

    def build(self):
        """A complete release beside the one in service, or none."""
        release = self.p["release"]
        folder = self.path("releases", release)
        if os.path.exists(os.path.join(folder, MARK)):
            return {"changed": False, "release": release}  # finished by a run whose controller was cut off
        # Without its mark it is what a run that was cut off has left.
        shutil.rmtree(folder, ignore_errors=True)
        set_ = self.path("wheels", self.p["wheels"])
        try:
            if not os.path.isdir(set_):
                shutil.rmtree(set_ + ".part", ignore_errors=True)
                os.makedirs(set_ + ".part")
                self.unpack(self.p["wheels_archive"], set_ + ".part")
                os.rename(set_ + ".part", set_)
            os.makedirs(folder, 0o755)
            self.unpack(self.p["archive"], folder)
            venv = os.path.join(folder, "venv")
            python = os.path.join(venv, "bin", "python")
            run([SYSTEM_PYTHON, "-m", "venv", "--without-pip", venv], "no virtual environment can be made")
            self.fill(venv, set_)
            # Compiled here, for the service may not write to its own code.
            code = [os.path.join(folder, part) for part in ("app", "overlay")]
            run([python, "-m", "compileall", "-q", "-j", "0", *code])
            write(os.path.join(folder, "run"), self.launcher(release), 0o755)
            static = os.path.join(folder, "static")
            os.mkdir(static, 0o755)
            account = self.account()
            os.chown(static, account.pw_uid, account.pw_gid)
            message = f"release {release} does not pass its checks"
            self.manage(release, ["-m", "djorm_release", "check"], message)
            for root, folders, files in os.walk(static):
                for name in (".", *folders, *files):
                    os.chown(os.path.join(root, name), 0, 0, follow_symlinks=False)
            mark = {"release": release, "wheels": self.p["wheels"], "settings": self.p["project_settings"]}
            write(os.path.join(folder, MARK), json.dumps(mark) + "\n", 0o644)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(set_ + ".part", ignore_errors=True)
            raise
        return {"changed": True, "release": release}

    def launcher(self, release):
        """How anything of this release is started; the same for the service, migrations and commands."""
        return f"""#!/bin/sh
# Release {release}: its own Python with its own code, whatever `current` points to meanwhile.
here=$(dirname "$(readlink -f "$0")")
export PYTHONPATH="$here/overlay:$here/app"
export PYTHONDONTWRITEBYTECODE=1
export PYTHONUNBUFFERED=1
export DJANGO_SETTINGS_MODULE=djorm_site_settings
export DJANGO_PROJECT_SETTINGS={self.p["project_settings"]}
export DJANGO_STATIC_ROOT="$here/static"
export DJANGO_APP_RELEASE={release}
cd "$here/app" || exit 1
exec "$here/venv/bin/python" "$@"
"""

    def migrate(self):
        verdict, output = self.manage(
            self.p["release"],
            ["-m", "djorm_release", "migrate"],
            f"release {self.p['release']} cannot migrate; the release in service was left alone",
        )
        return {"changed": bool(verdict["applied"]), "applied": verdict["applied"], "output": tail(output)}

    # ---- activation ------------------------------------------------------------------------------
    def files(self):
        """Every file of the service outside its releases: path -> (content, mode, gid)."""
        account = self.account()
        gid = account.pw_gid if account else 0
        environment = {**self.environment(), "DJANGO_APP_CONFIG": self.config()}
        lines = [f"{key}={quoted(value)}" for key, value in sorted(environment.items())]
        head = "# Managed by Ansible. Read by systemd, and by the manage command beside it.\n"
        wanted = {f"{self.etc}/environment": (head + "\n".join(lines) + "\n", 0o640, gid)}
        if self.p["ca"]:
            wanted[f"{self.etc}/ca.pem"] = (self.p["ca"], 0o644, 0)
        for unit, content in self.p["units"].items():
            wanted[f"/etc/systemd/system/{unit}"] = (content, 0o644, 0)
        wanted[f"{self.etc}/manage"] = (self.manage_script(), 0o755, 0)
        return wanted

    def config(self):
        """A fingerprint of all that a worker is started with; each worker tells the one it runs under."""
        said = json.dumps([self.environment(), self.p["units"], self.p["ca"]], sort_keys=True).encode()
        key = str(self.p["secret_environment"].get("DJANGO_SECRET_KEY", "")).encode()
        return hmac.new(key, said, "sha256").hexdigest()[:12]

    def outdated(self, release):
        """A worker that runs something else than what lies on the disk: a run was cut off in between."""
        said = [ask(path, "status") for path in self.workers_sockets("main")]
        wanted = (release, self.config())
        return any((one.get("release"), one.get("config")) != wanted for one in said if one)

    def manage_script(self):
        return f"""#!/bin/sh
# Managed by Ansible. A management command of the release in service, as the service runs it, e.g.
#   {self.etc}/manage soak --rate 20 --seconds 60
# Its pool is as small as the budget allows a command to be.
set -e
set -a
. {self.etc}/environment
POOL_SIZE=$MANAGEMENT_CONNECTIONS POOL_MAX_OVERFLOW=0 SOAK_URL=unix:{self.p["socket"]}
PATH={BASE_ENVIRONMENT["PATH"]} LANG=C.UTF-8 HOME=/nonexistent
set +a
exec setpriv --reuid {self.user} --regid {self.user} --init-groups -- {self.home}/current/run -m django "$@"
"""

    def differing(self, wanted):
        changed = {}
        for path, (content, mode, gid) in wanted.items():
            try:
                status = os.stat(path)
            except OSError:
                changed[path] = None
                continue
            there = read(path)
            if (
                there != content
                or status.st_mode & 0o7777 != mode
                or (status.st_uid, status.st_gid) != (0, gid)
            ):
                changed[path] = there
        return changed

    def systemctl(self, *argv, check=None):
        return run(["systemctl", *argv], check)

    def state(self, unit):
        text = self.systemctl("show", unit, "-p", "ActiveState,NRestarts").stdout
        return dict(line.partition("=")[::2] for line in text.splitlines())

    def discard(self, release):
        """A release that was refused and never served is of no use to anybody."""
        never = not os.path.exists(self.path("releases", release, "activated"))
        if never and self.current() != release:
            shutil.rmtree(self.path("releases", release), ignore_errors=True)

    def journal(self, unit):
        # The last words of a dying process take a moment to arrive.
        time.sleep(0.5)
        done = run(["journalctl", "--no-pager", "-q", "-o", "cat", "-n", "60", "-u", unit])
        # Long tracebacks of several workers: what counts are the errors themselves.
        lines = done.stdout.strip().splitlines()
        errors = [
            line for line in lines if re.match(r"^[\w.]*(Error|Exception|Exit|ImproperlyConfigured)\b", line)
        ]
        return "\n".join([*dict.fromkeys(errors), *lines[-8:]])

    def healthy(self, unit, release):
        """All workers of a unit answer, by a query each: (None or what is wrong, their process ids)."""
        kind = {self.main: "main", self.trial: "trial", self.next: "next"}[unit]
        ready, problem = set(), f"no worker of {unit} answers"
        for path in self.workers_sockets(kind):
            said = ask(path, "ready")
            if said is None:
                continue
            if said.get("ready") and said.get("release") == release:
                ready.add(said.get("pid"))
            else:
                problem = said.get("error") or f"a worker still runs release {said.get('release')}"
        if len(ready) >= self.p["workers"]:
            return None, ready
        return f"{len(ready)} of {self.p['workers']} workers ready: {problem}", ready

    def wait_healthy(self, unit, release, settle=0):
        deadline = time.monotonic() + self.p["health_timeout"]
        good_since, restarts, first = None, None, set()
        while True:
            state = self.state(unit)
            if restarts is None:
                restarts = state.get("NRestarts")
            if state.get("ActiveState") in ("failed", "inactive") or state.get("NRestarts") != restarts:
                raise Failure(f"{unit} died while it came up with release {release}", self.journal(unit))
            problem, pids = self.healthy(unit, release)
            if good_since and settle and first - pids:
                # gunicorn starts another in its place, which would look as healthy.
                after = time.monotonic() - good_since
                raise Failure(f"release {release} died {after:.0f} s after it was ready", self.journal(unit))
            if problem is None:
                if not good_since:
                    good_since, first = time.monotonic(), pids
                if time.monotonic() - good_since >= settle:
                    return
            else:
                good_since = None
                if time.monotonic() > deadline:
                    raise Failure(f"{unit} is not healthy after {self.p['health_timeout']} s: {problem}",
                                  self.journal(unit))  # fmt: skip
            time.sleep(0.1)

    def http(self):
        """The health address through the socket that clients use."""
        client = http.client.HTTPConnection("localhost", timeout=self.p["health_timeout"])
        client.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.sock.settimeout(self.p["health_timeout"])
        try:
            client.sock.connect(self.p["socket"])
            host = (
                str(self.p["environment"].get("DJANGO_ALLOWED_HOSTS", "localhost")).split(",")[0].lstrip(".")
            )
            host = "localhost" if host == "*" else host
            headers = {"Host": host, "X-Forwarded-Proto": "https", "Connection": "close"}
            client.request("GET", self.p["health_path"], headers=headers)
            response = client.getresponse()
            body = response.read(300)
        except (OSError, http.client.HTTPException) as problem:
            raise Failure(f"{self.p['health_path']} does not answer on {self.p['socket']}: {problem}",
                          self.journal(self.main)) from None  # fmt: skip
        finally:
            client.close()
        if response.status >= 400:
            raise Failure(
                f"{self.p['health_path']} answers {response.status}: {body!r}", self.journal(self.main)
            )

    def start_or_hand_over(self, release, was_serving):
        """The release `current` points to, in service and healthy; the service is never without workers."""
        if not was_serving:
            # Nothing to protect, so no time to settle. A run that was cut off may have left the other unit.
            self.systemctl("start", self.listener, check=f"{self.listener} does not start")
            if self.systemctl("restart", self.main).returncode:
                raise Failure(f"{self.main} does not start", self.journal(self.main))
            self.wait_healthy(self.main, release)
            self.http()
            self.clear()
            return
        overlap = self.p["overlap"] > 1
        try:
            if overlap:
                # First without clients: whoever dies now takes no request with it.
                self.start(self.trial, release)
                self.wait_healthy(self.trial, release, self.p["settle_seconds"])
                # New workers join on the same socket; only then may the old ones finish and go.
                self.start(self.next, release)
                self.wait_healthy(self.next, release)
            self.restarted = True
            if self.systemctl("restart", self.main).returncode:
                raise Failure(f"{self.main} does not start", self.journal(self.main))
            self.wait_healthy(self.main, release, 0 if overlap else self.p["settle_seconds"])
            self.http()
        finally:
            self.clear()

    def clear(self):
        """Neither of the units that only a hand-over needs, also not as a failed one."""
        self.systemctl("stop", self.trial, self.next)
        self.systemctl("reset-failed", self.trial, self.next)

    def start(self, unit, release):
        self.clear()
        if self.systemctl("start", unit).returncode:
            raise Failure(f"release {release} does not start", self.journal(unit))

    def enabled(self):
        base = "/etc/systemd/system"
        return os.path.islink(f"{base}/multi-user.target.wants/{self.main}") and os.path.islink(
            f"{base}/sockets.target.wants/{self.listener}"
        )

    def assess(self):
        """What stands between the host and its release."""
        release, before = self.p["release"], self.current()
        wanted = self.files()
        changed = self.differing(wanted)
        units = (self.main, self.listener, self.trial, self.next)
        states = [self.state(unit).get("ActiveState") for unit in units]
        serving, idle_listener = states[0] == "active", states[1] != "active"
        flip = before != release
        manage_only = set(changed) <= {f"{self.etc}/manage"}
        # Units that no running process reads need no hand-over.
        moved = flip or not serving or not manage_only or self.outdated(release)
        # The hand-over of a run that was cut off, before its end or before its note that it was done.
        lingering = bool({"active", "activating"} & set(states[2:]))
        lingering = lingering or not os.path.exists(self.path("releases", release, "activated"))
        needed = bool(changed) or moved or idle_listener or lingering or not self.enabled()
        needed = needed or bool(self.stale_services())
        needed = needed or any(self.service_lacks(unit, release) for unit in self.p["services"])
        return before, wanted, changed, serving, moved, idle_listener, needed

    # ---- what runs beside gunicorn: Celery's workers and the like ---------------------------------
    def stale_services(self):
        """Units of services that are declared no more."""
        ours = glob.glob(f"/etc/systemd/system/{self.name}-*.service")
        return [unit for unit in map(os.path.basename, ours) if unit not in self.p["units"]]

    def service_lacks(self, unit, release):
        """None where this service runs, is enabled, and was started with this release and configuration."""
        text = self.systemctl("show", unit, "-p", "ActiveState,SubState,MainPID,UnitFileState").stdout
        state = dict(line.partition("=")[::2] for line in text.splitlines())
        if (state.get("ActiveState"), state.get("SubState")) != ("active", "running"):
            return f"is {state.get('ActiveState')} ({state.get('SubState')})"
        if state.get("UnitFileState") != "enabled":
            return "is not enabled"
        environ = read(f"/proc/{state['MainPID']}/environ") or ""
        said = dict(item.partition("=")[::2] for item in environ.split("\0"))
        if (said.get("DJANGO_APP_RELEASE"), said.get("DJANGO_APP_CONFIG")) != (release, self.config()):
            return "runs another release or configuration"
        return None

    def move_services(self, release):
        """They stop before they start again, so that the budget counts them once."""
        for unit in self.stale_services():
            self.systemctl("disable", "--now", unit)
            os.unlink(f"/etc/systemd/system/{unit}")
            self.systemctl("daemon-reload")
        for unit in self.p["services"]:
            if self.service_lacks(unit, release) is None:
                continue
            self.systemctl("enable", unit, check=f"{unit} cannot be enabled")
            self.restarted = True
            self.systemctl("restart", unit)
            good_since, deadline = None, time.monotonic() + self.p["health_timeout"]
            while not good_since or time.monotonic() - good_since < min(3, self.p["settle_seconds"]):
                problem = self.service_lacks(unit, release)
                good_since = None if problem else good_since or time.monotonic()
                if problem and time.monotonic() > deadline:
                    raise Failure(f"{unit} {problem} with release {release}", self.journal(unit))
                time.sleep(0.1)

    def look(self):
        """Is there anything to hand over? Where there is not, that is a claim; ask the running service."""
        *_, needed = self.assess()
        renewed = os.path.exists(f"{self.etc}/environment") and self.renew()
        if not needed and not self.module.check_mode:
            problem, _ = self.healthy(self.main, self.p["release"])
            if problem:
                self.wait_healthy(self.main, self.p["release"])
            self.http()
        return {"changed": renewed, "needed": needed}

    def renew(self):
        """Sessions that were opened before the server got other values go: the pools watch this file."""
        path, wanted = f"{self.etc}/renew", self.p["renewal"]
        if not wanted or read(path) == wanted:
            return False
        if not self.module.check_mode:
            self.put({path: (wanted, 0o644, 0)})
            for also in filter(os.path.exists, self.p["renew_also"]):
                os.utime(also)
        return True

    def activate(self):
        release = self.p["release"]
        before, wanted, changed, serving, moved, idle_listener, needed = self.assess()
        flip = before != release
        result = {
            "changed": needed,
            "release": release,
            "previous": before if flip else None,
            "changed_files": sorted(changed),
        }
        if self.module.check_mode or not needed:
            return result
        if moved:
            # Asked beside the running release, with the settings to come; nothing has been touched yet.
            message = f"release {release} is not healthy, {self.kept(before)}"
            self.manage(release, ["-m", "djorm_release", "gate"], message)
        listener_file = f"/etc/systemd/system/{self.listener}"
        rebind = listener_file in changed and serving
        try:
            os.makedirs(self.etc, 0o755, exist_ok=True)
            self.renew()
            self.put({path: wanted[path] for path in changed})
            if flip:
                link(self.path("current"), os.path.join("releases", release))
            if not self.enabled():
                self.systemctl("enable", self.main, self.listener, check="the service cannot be enabled")
            if rebind:
                # Another address: the listening socket itself has to be replaced.
                self.restarted = True
                self.systemctl("stop", self.main)
                self.systemctl("restart", self.listener, check=f"{self.listener} does not listen")
            if moved or rebind:
                self.start_or_hand_over(release, serving and not rebind)
            else:
                if idle_listener:
                    self.systemctl("restart", self.listener, check=f"{self.listener} does not listen")
                self.clear()
            self.move_services(release)
        except (Failure, OSError) as problem:
            result["restored"] = self.back(before, changed, wanted, serving)
            raise Failure(f"{problem}; {result['restored']}", getattr(problem, "details", "")) from None
        stamp = self.path("releases", release, "activated")
        if flip or not os.path.exists(stamp):  # a run may have been cut off after the flip
            write(stamp, "", 0o644)
            os.utime(stamp)
            self.prune(release, before)
        return result

    def releases_kept(self):
        """What a rollback can choose from: releases that have served, the latest in service first."""
        served = [
            name for name in self.releases() if os.path.exists(self.path("releases", name, "activated"))
        ]
        return {"changed": False, "current": self.current(), "releases": served, "deployed": True}

    def kept(self, before):
        return f"release {before} stays in service" if before else "nothing was activated"

    def put(self, files):
        write_all(files)
        if any(path.startswith("/etc/systemd/system/") for path in files):
            self.systemctl("daemon-reload", check="systemd does not take the unit files")

    def back(self, before, changed, wanted, serving):
        """Everything as it was, and the release that served before in service again."""
        if not before:
            self.systemctl("stop", self.main, self.listener, *self.p["services"])
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path("current"))
            return "there was no release before it; the service is stopped"
        try:
            new = [path for path, content in changed.items() if content is None]
            for path in new:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            self.put({path: (changed[path], *wanted[path][1:]) for path in changed if path not in new})
        except OSError as problem:
            return f"the files of release {before} could not be put back: {problem}"
        link(self.path("current"), os.path.join("releases", before))
        for unit in self.p["services"]:
            self.systemctl("restart" if f"/etc/systemd/system/{unit}" not in new else "stop", unit)
        if not serving:
            return f"back to release {before}, which was not running"
        if self.restarted:
            listening = self.state(self.listener).get("ActiveState") == "active"
            if not listening or f"/etc/systemd/system/{self.listener}" in changed:
                self.systemctl("stop", self.main)
                self.systemctl("restart", self.listener)
            self.systemctl("restart", self.main)
            try:
                self.wait_healthy(self.main, before)
            except Failure as problem:
                return f"went back to release {before}, but {problem}"
        return f"back to release {before}, which serves"

    def prune(self, *keep):
        """The newest stay, and always the one in service and the one before it."""
        stay = [name for name in keep if name]
        stay += [name for name in self.releases() if name not in stay]
        stay = stay[: max(self.p["keep"], 2)]
        wheels = set()
        for name in stay:
            with contextlib.suppress(ValueError, TypeError):
                wheels.add(json.loads(read(self.path("releases", name, MARK)))["wheels"])
        for path in glob.glob(self.path("releases", "*")):
            if os.path.basename(path) not in stay:
                shutil.rmtree(path, ignore_errors=True)
        for path in glob.glob(self.path("wheels", "*")):
            if os.path.isdir(path) and os.path.basename(path) not in wheels:
                shutil.rmtree(path, ignore_errors=True)
            elif fnmatch.fnmatch(path, "*.tar"):
                os.unlink(path)


def main():
    text = {"type": "str"}
    module = AnsibleModule(
        argument_spec={
            "step": {
                "type": "str",
                "required": True,
                "choices": ["probe", "wheels", "build", "migrate", "look", "activate", "kept"],
            },
            "name": {"type": "str", "required": True},
            "home": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "release": text,
            "archive": {"type": "path"},
            "wheels": text,
            "wheels_archive": {"type": "path"},
            "requirements": {"type": "list", "elements": "str", "default": []},
            "migrations": {"type": "list", "elements": "str", "default": []},
            "packages": {"type": "list", "elements": "str", "default": []},
            "build_packages": {"type": "list", "elements": "str", "default": []},
            "client_library": {"type": "str", "default": "auto", "choices": ["auto", "mysql", "mariadb"]},
            "keep_build_packages": {"type": "bool", "default": False},
            "project_settings": text,
            "environment": {"type": "dict", "default": {}},
            "secret_environment": {"type": "dict", "default": {}, "no_log": True},
            "units": {"type": "dict", "default": {}},
            "services": {"type": "list", "elements": "str", "default": []},
            "ca": text,
            "renewal": text,
            "renew_also": {"type": "list", "elements": "str", "default": []},
            "socket": {"type": "path"},
            "health_path": text,
            "health_timeout": {"type": "int", "default": 20},
            "settle_seconds": {"type": "int", "default": 0},
            "workers": {"type": "int", "default": 1},
            "overlap": {"type": "int", "default": 2},
            "keep": {"type": "int", "default": 3},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    host = Host(module)
    step = module.params["step"]
    steps = {
        "probe": host.probe,
        "wheels": host.wheels,
        "build": host.build,
        "migrate": host.migrate,
        "look": host.look,
        "activate": host.activate,
        "kept": host.releases_kept,
    }
    try:
        if step in ("wheels", "build", "migrate", "activate") and not module.check_mode:
            host.alone()
        result = steps[step]()
    except Failure as problem:
        if step in ("migrate", "activate"):
            host.discard(module.params["release"])
        message = f"{problem}; {host.kept(host.current())}" if step in ("wheels", "build") else f"{problem}"
        module.fail_json(msg=message + (f"\n{problem.details}" if problem.details else ""))
    except OSError as problem:
        module.fail_json(msg=f"{step}: {problem}; {host.kept(host.current())}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
