#!/usr/bin/python
"""Installs a server in two steps: first the programs, so that they can judge our file; then the service.

Debian's packages make the data directory while they install, by the configuration that is there at that
moment: what must hold from the first day on (lower_case_table_names) has to be in place before.
"""

import fcntl
import os
import re
import shutil
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mysql_role import Client, read_text, run, unit_state, write_text

DOCUMENTATION = """
module: mysql_server_package
short_description: Packages of a MySQL or MariaDB server
description: [Installs programs or the whole server from the distribution or a repository of the user's.]
options:
  flavor: {description: The server., type: str, required: true, choices: [mysql, mariadb]}
  stage: {description: What to install., type: str, required: true, choices: [core, server, upgrade]}
  socket: {description: Its Unix socket., type: path, default: /run/mysqld/mysqld.sock}
  start_timeout: {description: Seconds that the new version may take to answer., type: int, default: 300}
  repository: {description: A deb822 source, type: dict}
  unit: {description: The unit that must not start by itself., type: str, required: true}
  datadir: {description: Its data directory., type: path, default: /var/lib/mysql}
  packages: {description: More packages for the first step., type: list, elements: str}
author: [the project]
"""
EXAMPLES = "# see roles/mysql/tasks/install.yml\n"
RETURN = "version: {description: of the program, type: str, returned: stage core}\n"

SOURCE, KEY = "/etc/apt/sources.list.d/mysql-role.sources", "/etc/apt/keyrings/mysql-role"
LISTS, POSTINST = "/var/lib/apt/lists", "/var/lib/dpkg/info/mysql-server.postinst"
APT = [
    "apt-get",
    "-q",
    "-y",
    "--no-remove",
    "-o",
    "DPkg::Lock::Timeout=300",
    "-o",
    "Dpkg::Options::=--force-confold",
]
# Debian's package of MySQL starts a server of its own to alter its maintenance account. That one must be
# reached by nobody, join no group, and write nothing to the binary log: the other nodes would lack it.
SCRIPTS = "/run/mysql-role-package-scripts"
SCRIPTS_OPTIONS = """[mysqld]
skip_networking
disable_log_bin
read_only = OFF
super_read_only = OFF
loose_group_replication_start_on_boot = OFF
"""
MAINTENANCE = "debian-sys-maint"
# $MYSQL_HOME/my.cnf is read after /etc/mysql, and only by what apt itself starts.
ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C", "MYSQL_HOME": SCRIPTS}
BINARIES = {"mysql": "/usr/sbin/mysqld", "mariadb": "/usr/sbin/mariadbd"}


def upstream(version):
    """1:11.8.9+ds-0+deb13u1 -> 11.8.9"""
    return re.sub(r"^\d+:", "", version).split("-")[0].split("+")[0]


class Packages:
    def __init__(self, module):
        self.module, self.wanted, self.changed = module, module.params, False
        self.datadir = module.params["datadir"].rstrip("/")
        self.mark = os.path.join(
            os.path.dirname(self.datadir), f".{os.path.basename(self.datadir)}-initialising"
        )

    def apt(self, *arguments):
        return run([*APT, *arguments], timeout=1800, env={**os.environ, **ENVIRONMENT})

    def fail(self, done, what):
        lines = [
            line
            for line in (done.stdout + done.stderr).splitlines()
            if re.match(r"\s*(E:|dpkg: error|Err:)", line)
        ]
        said = "\n  ".join(lines[-8:]) or done.stderr[-600:]
        self.module.fail_json(
            msg=f"{what} failed; apt says:\n  {said}\nmend: make `apt-get update` and `apt-get install` "
            "work on this host (mirror, disk space, held packages), or name another source in "
            "mysql_repository, and run again; what was begun is finished then"
        )

    def repository(self):
        """The user's own source, as one deb822 file with its key beside it."""
        given = self.wanted["repository"]
        if not given:
            if os.path.exists(SOURCE) and not self.module.check_mode:
                os.unlink(SOURCE)
                self.changed = True
            return
        key = given["key"]
        body = {"Types": "deb", "URIs": " ".join(given["uris"]), "Suites": " ".join(given["suites"])}
        if given["components"]:
            body["Components"] = " ".join(given["components"])
        if key.lstrip().startswith("-----BEGIN"):
            path = f"{KEY}.asc"
            if read_text(path) != key.rstrip() + "\n":
                self.changed = True
                if not self.module.check_mode:
                    write_text(path, key.rstrip() + "\n")
            body["Signed-By"] = path
        elif key:
            body["Signed-By"] = key
        text = "".join(f"{name}: {value}\n" for name, value in body.items())
        if read_text(SOURCE) != text:
            self.changed = True
            if not self.module.check_mode:
                write_text(SOURCE, text)
                self.update()

    def update(self):
        done = self.apt("update", "-o", "Acquire::Languages=none")  # descriptions are most of the download
        if done.returncode != 0 or re.search(r"^(E|Err):", done.stdout + done.stderr, re.MULTILINE):
            self.fail(done, "Reading the package lists")

    def fresh(self):
        """Lists of the last day are good enough."""
        try:
            times = [entry.stat().st_mtime for entry in os.scandir(LISTS) if "_Packages" in entry.name]
        except FileNotFoundError:
            times = []
        return bool(times) and max(times) > time.time() - 86400

    def core(self):
        """The names of the packages with programs alone, as this source calls them."""
        done = self.apt("install", "--simulate", "--no-install-recommends", f"{self.wanted['flavor']}-server")
        names = re.findall(r"^Inst (\S+)", done.stdout, re.MULTILINE)
        found = [
            name for name in names if re.match(r"^(mysql|mariadb)-(community-)?server-core(-[\d.]+)?$", name)
        ]
        return done, found

    def install(self, names, what):
        done = self.apt("install", "--no-install-recommends", *names)
        if done.returncode != 0 and re.search(
            r"404 |Unable to (locate|fetch)|no installation candidate", done.stdout + done.stderr
        ):
            self.update()
            done = self.apt("install", "--no-install-recommends", *names)
        if done.returncode != 0:
            self.fail(done, what)
        self.changed = True

    def wait_for_dpkg(self):
        """A run whose connection broke may still be at work."""
        with open("/var/lib/dpkg/lock-frontend", "w", encoding="ascii") as handle:
            for _ in range(600):
                try:
                    fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except OSError:
                    time.sleep(0.5)
        self.module.fail_json(msg="dpkg is busy for minutes; mend: end what holds its lock")

    def never_configured(self):
        """No version of the server was ever whole on this host."""
        form = "${Package} ${db:Status-Abbrev} ${Config-Version}\\n"
        done = run(["dpkg-query", "-W", "-f", form, "mysql-*server*", "mariadb-server*"])
        servers = [line.split() for line in done.stdout.splitlines() if "core" not in line]
        return not any(words[1].startswith("ii") or len(words) > 2 for words in servers)

    def mend(self):
        """A run that was cut off leaves packages half configured, and maybe half a data directory.

        Debian's scripts take half a data directory for a whole one. It goes where our own mark says that it
        was empty when the installation began, and dpkg that no server was ever whole here to put data in it.
        """
        self.wait_for_dpkg()
        if not run(["dpkg", "--audit"]).stdout.strip():
            return
        if os.path.exists(self.mark) and self.never_configured():
            for name in os.listdir(self.datadir) if os.path.isdir(self.datadir) else ():
                path = os.path.join(self.datadir, name)
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path)
                else:
                    os.unlink(path)
        done = run(["dpkg", "--configure", "-a"], timeout=1800, env={**os.environ, **ENVIRONMENT})
        if done.returncode != 0:
            done = self.apt("--fix-broken", "install")
        if done.returncode != 0:
            self.fail(done, "Finishing what an earlier run began")
        self.changed = True

    def programs(self):
        self.repository()
        self.mend()
        if not self.fresh():
            self.update()
        done, names = self.core()
        if done.returncode != 0:
            self.update()
            done, names = self.core()
        if done.returncode != 0:
            self.fail(done, f"Finding {self.wanted['flavor']}-server")
        if names or self.wanted["packages"]:
            self.install([*names, *self.wanted["packages"]], "Installing the server's programs")
        version, binary = self.version()
        return {"version": version, "binary": binary}

    def service(self):
        """Made, but not started: the first start is ours, with certificate and file judged and in place."""
        if not os.path.isdir(self.datadir) or not set(os.listdir(self.datadir)) - {"lost+found"}:
            write_text(self.mark, "the data directory was empty when the installation began\n")
        self.mend()
        self.install([f"{self.wanted['flavor']}-server"], "Installing the server")
        if os.path.exists(self.mark):
            os.unlink(self.mark)

    def offered(self):
        """{package: (installed, candidate)} of all that the server's source made and this host has."""
        form = "${source:Package} ${Package} ${db:Status-Abbrev} ${Version}\\n"
        rows = [line.split() for line in run(["dpkg-query", "-W", "-f", form]).stdout.splitlines()]
        server = re.compile(rf"^{self.wanted['flavor']}-(community-)?server(-[\d.]+)?$")
        sources = {row[0] for row in rows if len(row) == 4 and server.match(row[1])}
        names = {row[1]: row[3] for row in rows if len(row) == 4 and row[0] in sources and row[2] == "ii"}
        said = run(["apt-cache", "policy", *names]).stdout if names else ""
        found = dict(re.findall(r"(?m)^(\S+):\n.*\n  Candidate: (\S+)", said))
        return {name: (have, found.get(name, have)) for name, have in names.items()}

    def maintained(self):
        """Debian's script waits for ever for its server where the account that it alters is gone."""
        client = Client(socket=self.wanted["socket"])
        if MAINTENANCE not in (read_text(POSTINST) or "") or not client.alive():
            return
        if [MAINTENANCE, "localhost"] not in client.query("SELECT User, Host FROM mysql.user")[0]:
            self.module.fail_json(
                msg=f"the account {MAINTENANCE}@localhost is gone; the package's script alters it, and would "
                f"wait for ever; nothing was changed; mend: CREATE USER '{MAINTENANCE}'@localhost "
                "IDENTIFIED WITH auth_socket AS 'root' (of a cluster, on the node that writes)"
            )

    def upgrade(self):
        """Package scripts stop the server and start the new one; until it answers nothing else is done."""
        self.wait_for_dpkg()
        if not self.module.check_mode:
            self.update()
        todo = {name: pair for name, pair in self.offered().items() if pair[0] != pair[1]}
        series = {pair: [upstream(text).split(".")[:2] for text in pair] for pair in todo.values()}
        for (have, new), (old, coming) in series.items():
            if old != coming:
                self.module.fail_json(
                    msg=f"the packages offer {new}, and {have} is installed: another series, whose data "
                    "directory the old one may not read again; nothing was changed; mend: follow the path in "
                    "docs/security.md, or hold the packages (apt-mark hold)"
                )
        if not todo:
            return {"version": self.version()[0]}
        if self.wanted["flavor"] == "mysql":
            self.maintained()
        if self.module.check_mode:
            self.changed = True
            return {}
        if self.wanted["flavor"] == "mysql":  # MariaDB's package has no such script, nor these options
            write_text(f"{SCRIPTS}/my.cnf", SCRIPTS_OPTIONS)
        self.install(["--only-upgrade", *todo], "Upgrading the server")
        end = time.monotonic() + self.wanted["start_timeout"]
        client = Client(socket=self.wanted["socket"])
        while not client.alive():
            state = unit_state(self.wanted["unit"], "ActiveState").get("ActiveState")
            if state == "failed" or time.monotonic() > end:
                log = run(
                    ["journalctl", "-q", "--no-pager", "-o", "cat", "-n", "12", "-u", self.wanted["unit"]]
                )
                self.module.fail_json(
                    msg=f"{self.wanted['unit']} does not answer after its upgrade; it says:\n  {log.stdout}\n"
                    "mend: what is named there, or restore the proven backup (playbooks/restore.yml)"
                )
            if state == "inactive":
                run(["systemctl", "start", "--no-block", self.wanted["unit"]])
            time.sleep(0.5)
        return {"version": self.version()[0]}

    def version(self):
        for path in (BINARIES[self.wanted["flavor"]], "/usr/sbin/mysqld"):
            if os.path.exists(path):
                match = re.search(r"Ver (\d+\.\d+\.\d+)", run([path, "--no-defaults", "--version"]).stdout)
                if match:
                    return match.group(1), path
        return self.module.fail_json(
            msg=f"no program of {self.wanted['flavor']}-server after installation; mend: check "
            "that mysql_repository carries this server"
        )


def main():
    module = AnsibleModule(
        argument_spec={
            "flavor": {"type": "str", "required": True, "choices": ["mysql", "mariadb"]},
            "stage": {"type": "str", "required": True, "choices": ["core", "server", "upgrade"]},
            "socket": {"type": "path", "default": "/run/mysqld/mysqld.sock"},
            "start_timeout": {"type": "int", "default": 300},
            "unit": {"type": "str", "required": True},
            "datadir": {"type": "path", "default": "/var/lib/mysql"},
            "packages": {"type": "list", "elements": "str", "default": []},
            "repository": {
                "type": "dict",
                "options": {
                    "uris": {"type": "list", "elements": "str", "required": True},
                    "suites": {"type": "list", "elements": "str", "required": True},
                    "components": {"type": "list", "elements": "str", "default": []},
                    "key": {"type": "str", "default": "", "no_log": False},
                },
            },
        },
        supports_check_mode=True,
    )
    wanted, job = module.params, Packages(module)
    if module.check_mode and wanted["stage"] != "upgrade":
        module.exit_json(changed=True)
    if not shutil.which("apt-get"):
        module.fail_json(msg="this host has no apt; mend: use Debian 12, 13 or sid, or Ubuntu 24.04")
    if wanted["stage"] == "upgrade":
        result = job.upgrade()
        module.exit_json(changed=job.changed, **result)
    # No package starts the server. The mask is in /run: a run that is cut off leaves nothing for a boot.
    run(["systemctl", "mask", "--runtime", wanted["unit"]])
    try:
        result = job.programs() if wanted["stage"] == "core" else job.service()
    finally:
        run(["systemctl", "unmask", "--runtime", wanted["unit"]])
    module.exit_json(changed=job.changed, **(result or {}))


if __name__ == "__main__":
    main()
