"""The controller's half of the release module: which files, which wheels, which secrets.

A release is named by what it consists of, so a run that changes nothing finds its release in place and
carries nothing over. Wheels are built on the first host of a kind (distribution, Python, machine) that needs
them and kept here for every other host of that kind.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import hashlib
import io
import json
import os
import re
import secrets
import string
import subprocess
import tarfile
import tempfile
import tomllib
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

LOCKS = {"5.2": "requirements.txt", "6.1": "requirements-django61.txt"}
# What the project's own requirements decide when they bring Django themselves.
DJANGO = ("django", "asgiref", "sqlparse", "tzdata")
NEEDS_PYTHON = {"6.1": (3, 12)}


class Problem(Exception):
    """Something the reader has to mend; the message says what and how."""


def command(argv: list[str], message: str, **kwargs) -> bytes:
    done = subprocess.run(  # noqa: S603 (a list, no shell)
        argv, capture_output=True, check=False, **kwargs
    )
    if done.returncode:
        raise Problem(f"{message}\n{done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def is_url(source: str) -> bool:
    return "://" in source or bool(re.match(r"^[\w.-]+@[\w.-]+:", source))


class Files(dict):
    """Path in the release -> (content, executable); in the order of paths, without times or owners."""

    def digest(self) -> str:
        total = hashlib.sha256()
        for path in sorted(self):
            content, executable = self[path]
            total.update(f"{path}\0{int(executable)}\0{len(content)}\0".encode())
            total.update(content)
        return total.hexdigest()

    def tar(self) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
            for path in sorted(self):
                content, executable = self[path]
                info = tarfile.TarInfo(path)
                info.size, info.mode = len(content), 0o755 if executable else 0o644
                tar.addfile(info, io.BytesIO(content))
        return buffer.getvalue()

    def add_tree(self, folder: Path, under: str, exclude: list[str]) -> None:
        for root, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if not excluded(name, exclude))
            for name in sorted(names):
                path = Path(root, name)
                if excluded(name, exclude) or not path.is_file():
                    continue
                relative = path.relative_to(folder).as_posix()
                self[f"{under}/{relative}"] = (path.read_bytes(), os.access(path, os.X_OK))

    def add_archive(self, archive: bytes, under: str, exclude: list[str]) -> None:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                if member.isfile() and not any(excluded(part, exclude) for part in Path(member.name).parts):
                    self[f"{under}/{member.name}"] = (
                        tar.extractfile(member).read(),
                        bool(member.mode & 0o100),
                    )


def excluded(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


class Project:
    """Everything a release consists of that does not depend on the host."""

    def __init__(self, args: dict) -> None:
        self.bundle = Path(args["bundle"]).resolve()
        self.files_of_role = Path(args["overlay"]).resolve()
        self.cache = Path(args["cache"])
        self.source = str(args.get("source") or "")
        self.version = str(args.get("version") or "")
        self.subfolder = str(args.get("subfolder") or "").strip("/")
        self.exclude = list(args.get("exclude") or [])
        self.requirements = list(args.get("requirements") or [])
        self.django = str(args.get("django_version") or "5.2")
        self.settings = str(args["project_settings"])
        self.wheel_key = ""
        self.own = not self.source or (not is_url(self.source) and Path(self.source).resolve() == self.bundle)

    def files(self) -> Files:
        files = Files()
        if self.own:
            # The pool goes to the overlay, as it does for everybody else.
            files.add_tree(self.bundle, "app", [*self.exclude, "djorm_pool", "requirements*"])
            for name in self.requirements:
                if (self.bundle / name).is_file():
                    files[f"app/{name}"] = ((self.bundle / name).read_bytes(), False)
        elif is_url(self.source):
            files.add_archive(self.checked_out(), "app", self.exclude)
        else:
            folder = Path(self.source, "" if self.version else self.subfolder)
            if not folder.is_dir():
                raise Problem(
                    f"django_app_source={folder}: no such folder on the controller, and not a git URL"
                )
            if self.version:
                git = ["git", "-C", str(folder)]
                files.add_archive(command([*git, "archive", "--format=tar", self.revision()],
                                          f"django_app_version={self.revision()}: not in {folder}"),
                                  "app", self.exclude)  # fmt: skip
            else:
                files.add_tree(folder, "app", self.exclude)
        module = "app/" + self.settings.replace(".", "/")
        if f"{module}.py" not in files and f"{module}/__init__.py" not in files:
            raise Problem(
                f"django_app_settings_module={self.settings}: {self.source or 'the reference site'} has no "
                f"{module.removeprefix('app/')}.py; mend: name the project's settings module"
            )
        for path in ("djorm_site_settings.py", "djorm_release.py", "djorm_expand.py"):
            files[f"overlay/{path}"] = ((self.files_of_role / path).read_bytes(), False)
        environment = (self.bundle / "config" / "environment.py").read_bytes()
        files["overlay/djorm_site_environment.py"] = (environment, False)
        without = [*self.exclude, "tests", "*.toml", "*.egg-info"]
        files.add_tree(self.bundle / "djorm_pool", "overlay/djorm_pool", without)
        if not self.own:
            files.add_tree(self.bundle / "status", "overlay/djorm_status", self.exclude)
        files["requirements.txt"] = (self.lock().encode(), False)
        missing = [name for name in self.requirements if f"app/{name}" not in files]
        if missing:
            raise Problem(f"django_app_requirements: {', '.join(missing)} is not in the source")
        self.wheel_files = [self.as_requirements(files, name) for name in self.requirements]
        self.wheel_key = self.wheels_of(files)
        return files

    def revision(self) -> str:
        """As git takes it: of the whole source, or of a folder in it."""
        return f"{self.version or 'HEAD'}:{self.subfolder}" if self.subfolder else self.version or "HEAD"

    @staticmethod
    def as_requirements(files: Files, name: str) -> str:
        """The path in the release of a file that pip takes; of a pyproject.toml, what it depends on."""
        if not name.endswith(".toml"):
            return f"app/{name}"
        try:
            wanted = tomllib.loads(files[f"app/{name}"][0].decode())["project"]["dependencies"]
        except (ValueError, KeyError) as error:
            raise Problem(
                f"django_app_requirements: {name}: no dependencies in its table project ({error}); mend: "
                "have your tool export a requirements file, and name that one"
            ) from None
        path = f"requirements-{name.replace('/', '-')}.txt"
        files[path] = ("".join(f"{line}\n" for line in wanted).encode(), False)
        return path

    def lock(self) -> str:
        name = LOCKS.get(self.django, LOCKS["5.2"])
        lines = (self.bundle / name).read_text().splitlines()
        if self.django == "project":
            lines = [line for line in lines if re.split(r"[=<>~!\s;\[]", line.lower())[0] not in DJANGO]
        return "\n".join(lines) + "\n"

    def wheels_of(self, files: Files) -> str:
        """What decides which wheels there are: the requirements, wherever they lead."""
        total = hashlib.sha256(files["requirements.txt"][0])
        waiting, seen = [*self.wheel_files], set()
        while waiting:
            path = waiting.pop()
            if path in seen or path not in files:
                continue
            seen.add(path)
            text = files[path][0].decode("utf-8", "replace")
            total.update(text.encode())
            for line in text.splitlines():
                nested = re.match(r"^\s*(?:-r|-c|--requirement|--constraint)[\s=]+(\S+)", line)
                if nested:
                    waiting.append(os.path.normpath(os.path.join(os.path.dirname(path), nested.group(1))))
                elif re.match(r"^\s*(-e|\.|/|file:)", line):
                    # A package inside the project: its code is part of the wheels.
                    total.update(files.digest().encode())
        return total.hexdigest()

    def checked_out(self) -> bytes:
        """One revision of a repository, from a copy kept on the controller."""
        mirror = self.cache / "git" / hashlib.sha256(self.source.encode()).hexdigest()[:16]
        with locked(mirror.with_suffix(".lock")):
            git = ["git", "--git-dir", str(mirror)]
            if not mirror.is_dir():
                command(["git", "clone", "--quiet", "--mirror", self.source, str(mirror)],
                        f"django_app_source={self.source}: cannot be cloned")  # fmt: skip
            elif not self.has(git, self.version):
                command([*git, "fetch", "--quiet", "--prune", "origin"], f"{self.source}: cannot be fetched")
            revision = self.revision()
            return command([*git, "archive", "--format=tar", revision],
                           f"django_app_version={revision}: no such revision in {self.source}")  # fmt: skip

    @staticmethod
    def has(git: list[str], version: str) -> bool:
        """Only a full commit id means the same tomorrow; anything else has to be asked for anew."""
        if not re.fullmatch(r"[0-9a-f]{40}", version):
            return False
        try:
            command([*git, "cat-file", "-e", version + "^{commit}"], "")
        except Problem:
            return False
        return True


@contextlib.contextmanager
def locked(path: Path):
    """One of all forks (and of all controllers sharing this disk) at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def secret(name: str, spec: dict, deployed: bool, check_mode: bool) -> str:
    """A secret's value: the variable, else its file, else (where that is ours to do) made now."""
    if spec.get("value"):
        return str(spec["value"])
    path = Path(spec["file"])
    if path.is_file():
        return path.read_text().strip()
    mend = f"mend: bring {path} from the controller that deployed first, or set {spec['variable']} (in vault)"
    if check_mode:
        return "not-yet-made"
    if not spec.get("generate"):
        raise Problem(f"{name}: neither {spec['variable']} is set nor does {path} exist; {mend}")
    if deployed:
        raise Problem(f"{name}: this host is deployed already, but {path} is not on this controller; {mend}")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    value = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(64))
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=True) as file:
        file.write(value + "\n")
        file.flush()
        try:
            # Whole or not at all, and never over one that another host of this run has just made.
            os.link(file.name, path)
        except FileExistsError:
            return path.read_text().strip()
    return value


class ActionModule(ActionBase):
    """step: probe | build | migrate | look | activate | kept (see the module)."""

    TRANSFERS_FILES = True
    _requires_connection = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        self.vars = task_vars
        args = dict(self._task.args)
        step = args.get("step")
        try:
            if step not in ("probe", "build", "migrate", "look", "activate", "kept"):
                raise Problem(f"step={step}: not one of probe, build, migrate, look, activate, kept")
            result.update(getattr(self, f"step_{step}")(args))
        except Problem as problem:
            raise AnsibleActionFail(str(problem)) from None
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    # ---- helpers ---------------------------------------------------------------------------------
    def module(self, args: dict, step: str, names: tuple[str, ...] = (), **more) -> dict:
        chosen = {name: args[name] for name in ("name", "home", "user", *names) if args.get(name) is not None}
        return self._execute_module(
            module_name="django_app_release",
            module_args={**chosen, "step": step, **more},
            task_vars=self.vars,
        )

    def environment(self, args: dict, deployed: bool) -> dict:
        """What the module passes on to the project: plain, secret, and the database server's authority."""
        check_mode = self._task.check_mode
        ca = Path(args.get("ca_file") or "/nonexistent")
        if args.get("ca_file") and not ca.is_file() and not check_mode:
            raise Problem(
                f"django_app_database_ca={ca}: no such file on this controller; mend: deploy the server first"
            )
        return {
            **({"ca": ca.read_text()} if ca.is_file() else {}),
            "environment": {key: str(value) for key, value in (args.get("environment") or {}).items()},
            "secret_environment": {
                **{key: str(value) for key, value in (args.get("extra_environment") or {}).items()},
                **{
                    name: secret(name, spec, deployed, check_mode)
                    for name, spec in (args.get("secrets") or {}).items()
                },
            },
        }

    def upload(self, content: bytes, name: str) -> str:
        if not self._connection._shell.tmpdir:
            self._make_tmp_path()
        remote = self._connection._shell.join_path(self._connection._shell.tmpdir, name)
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            self._transfer_file(file.name, remote)
        return remote

    # ---- steps -----------------------------------------------------------------------------------
    def step_probe(self, args: dict) -> dict:
        """What the host has, and which release it should have."""
        project = Project(args)
        files = project.files()
        migrations = sorted(path for path in files if re.search(r"/migrations/(?!__init__)\w+\.py$", path))
        names = ("packages", "build_packages", "client_library")
        found = self.module(args, "probe", names, migrations=migrations)
        if found.get("failed"):
            return found
        python = found.get("python")
        needed = NEEDS_PYTHON.get(project.django)
        if python and needed and tuple(int(part) for part in python.split(".")) < needed:
            raise Problem(
                f"django_app_django_version={project.django}: needs Python {'.'.join(map(str, needed))}, "
                f"this host has {python}; mend: set django_app_django_version to 5.2"
            )
        kind = f"{found['distribution']}-py{python}-{found['machine']}-{found['client_library']}"
        wheels = hashlib.sha256(f"{kind}\0{project.wheel_key}".encode()).hexdigest()[:12]
        release = hashlib.sha256(json.dumps([files.digest(), wheels, project.settings]).encode()).hexdigest()[
            :12
        ]
        found.update(release=release, wheels=wheels, kind=kind, built=release in found["releases"])
        found["in_service"] = found["current"] == release
        return found

    def step_build(self, args: dict) -> dict:
        """The release in place on the host, complete and checked, beside the one in service."""
        probe = args["probe"]
        if self._task.check_mode:
            return {"changed": True, "release": probe["release"]}
        project = Project(args)
        files = project.files()
        archive = self.upload(files.tar(), "release.tar.gz")
        more = {"wheels": probe["wheels"], "archive": archive}
        if probe["wheels"] not in probe["wheel_sets"]:
            stored = project.cache / "wheels" / f"{probe['kind']}-{probe['wheels']}.tar"
            with locked(stored.with_suffix(".lock")):
                if not stored.is_file():
                    built = self.module(
                        args,
                        "wheels",
                        ("keep_build_packages",),
                        build_packages=probe["build_packages"],
                        requirements=["requirements.txt", *project.wheel_files],
                        **more,
                    )
                    if built.get("failed"):
                        return built
                    self.fetch(built["archive"], stored)
                    probe = {**probe, "wheel_sets": [*probe["wheel_sets"], probe["wheels"]]}
            if probe["wheels"] not in probe["wheel_sets"]:
                more["wheels_archive"] = self.upload(stored.read_bytes(), "wheels.tar")
        return self.module(
            args,
            "build",
            ("project_settings",),
            release=probe["release"],
            **more,
            **self.environment(args, probe["deployed"]),
        )

    def fetch(self, remote: str, local: Path) -> None:
        part = local.with_suffix(".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        self._connection.fetch_file(remote, str(part))
        with tarfile.open(part) as tar:
            if not tar.getnames():
                raise Problem("the wheel set arrived empty")
        part.rename(local)

    def step_migrate(self, args: dict) -> dict:
        if self._task.check_mode:
            # Those of packages are known once the release is built.
            return {"changed": bool(args["probe"]["new_migrations"])}
        return self.module(
            args,
            "migrate",
            release=args["probe"]["release"],
            **self.environment(args, args["probe"]["deployed"]),
        )

    def step_look(self, args: dict) -> dict:
        return self.service(args, "look")

    def step_activate(self, args: dict) -> dict:
        result = self.service(args, "activate")
        if result.get("failed"):
            # One host after the other: say which ones this failure has spared.
            everybody = list(self.vars.get("ansible_play_hosts_all") or [])
            after = everybody[everybody.index(self.vars["inventory_hostname"]) + 1 :]
            if after:
                result["msg"] += f"\nleft alone, for they would have come after it: {', '.join(after)}"
        return result

    def step_kept(self, args: dict) -> dict:
        return self.module(args, "kept")

    def service(self, args: dict, step: str) -> dict:
        more = self.environment(args, args["probe"]["deployed"])
        names = (
            "units",
            "services",
            "renewal",
            "renew_also",
            "socket",
            "health_path",
            "health_timeout",
            "settle_seconds",
            "workers",
            "overlap",
            "keep",
        )
        release = args.get("release") or args["probe"]["release"]
        return self.module(args, step, names, release=release, **more)
