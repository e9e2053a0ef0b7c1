#!/usr/bin/python
"""Puts the server's file, limits and certificate in place and makes the running server agree."""

import grp
import hashlib
import json
import os
import pwd
import re
import shutil
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mysql_role import (
    Client,
    SqlError,
    literal,
    matches,
    option_files,
    option_lines,
    option_name,
    persisted,
    read_text,
    run,
    server_groups,
    soft_nofile,
    unit_state,
    write_text,
)

DOCUMENTATION = """
module: mysql_server_config
short_description: Configuration of a MySQL or MariaDB server, applied and read back
description:
  - The server's own binary judges the file before it is installed; dynamic variables are set live; the server
    is restarted only for static ones; a server that does not come back gets its previous file back.
options:
  content: {description: The rendered file., type: str, required: true}
  path: {description: Where it goes., type: path, required: true}
  settings: {description: The resolved settings behind the file., type: list, elements: dict, required: true}
  flavor: {description: The server., type: str, required: true, choices: [mysql, mariadb]}
  version: {description: Its version., type: str, required: true}
  binary: {description: Its program., type: path, required: true}
  unit: {description: Its systemd unit., type: str, required: true}
  socket: {description: Its Unix socket., type: path, required: true}
  datadir: {description: Its data directory., type: path, required: true}
  installed: {description: False places the files only., type: bool, default: true}
  nofile: {description: The least LimitNOFILE., type: int, required: true}
  drop_in: {description: The unit's drop-in., type: str, required: true}
  drop_in_path: {description: Where the drop-in goes., type: path, required: true}
  directories: {description: Folders that belong to the server., type: list, elements: path}
  tls: {description: Texts of ca, cert and key; empty leaves what is there., type: dict}
  tls_path: {description: Their folder., type: path, default: /etc/mysql/tls}
  cluster: {description: Is the server meant to be a node of a cluster?, type: bool, default: false}
  restart_policy: {description: What to do when static variables differ., type: str, default: auto,
                   choices: [auto, report, never]}
  start_timeout: {description: Seconds that a start may take., type: int, default: 300}
  restart: {description: Restart although nothing asks for it., type: bool, default: false}
  restart_wait: {description: Seconds a restart waits for transactions; 0 for none., type: int, default: 60}
author: [the project]
"""
EXAMPLES = "# see roles/mysql/tasks/main.yml\n"
RETURN = """
restarted: {description: was the server restarted, type: bool, returned: always}
pending_restart: {description: what waits for a restart, type: list, returned: always}
actions: {description: what was done, type: list, returned: always}
"""

MIB = 1024**2
FUTILE = "/run/mysql-role-futile"  # a restart that did not help; gone with the next boot
# Transactions that are waited for: open for 2 s. What is younger is over before a restart is.
OPEN = (
    "SELECT t.trx_mysql_thread_id, p.USER, p.HOST, TIMESTAMPDIFF(SECOND, t.trx_started, NOW())"
    " FROM information_schema.INNODB_TRX t"
    " JOIN information_schema.PROCESSLIST p ON p.ID = t.trx_mysql_thread_id"
    " WHERE t.trx_started <= NOW() - INTERVAL 2 SECOND AND p.ID <> CONNECTION_ID() ORDER BY t.trx_started"
)
APPARMOR, APPARMOR_LOCAL = "/etc/apparmor.d/usr.sbin.mysqld", "/etc/apparmor.d/local/usr.sbin.mysqld"
# A fresh data directory: system tables, undo and temporary tablespaces (measured, without the redo log).
FRESH = {"mysql": 220 * MIB, "mariadb": 130 * MIB}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Accounts that are meant to come over the network; the server's own and roles have no such host.
ELSEWHERE = (
    "SELECT User, Host FROM mysql.user WHERE User NOT IN ('', 'root') AND Host NOT IN"
    " ('', 'localhost', '127.0.0.1', '::1') ORDER BY User, Host"
)
# The command-line client sets these for its own session.
CLIENTS_OWN = re.compile(r"^(character_set_|collation_|wait_timeout$|sql_log_bin$|timestamp$)")


class Refusal(Exception):
    """Nothing was activated; the old state serves on."""


class Job:
    def __init__(self, module):
        self.module, self.wanted = module, module.params
        self.settings = module.params["settings"]
        self.path, self.kept = self.wanted["path"], self.wanted["path"] + ".previous"
        self.client = Client(socket=self.wanted["socket"])
        self.actions, self.remarks = [], []

    # --- what is there -----------------------------------------------------------------------------------
    def look(self):
        wanted = self.wanted
        self.before = read_text(self.path)
        # A copy that is still there means that an earlier run was cut off: the copy is what last served well.
        self.cut_off = read_text(self.kept) is not None
        self.good = read_text(self.kept) if self.cut_off else self.before
        self.drop_in_before = read_text(wanted["drop_in_path"])
        self.differs = wanted["content"] != self.before
        self.drop_in_differs = wanted["drop_in"] != self.drop_in_before
        self.tls = {
            os.path.join(
                wanted["tls_path"], {"ca": "ca.pem", "cert": "server-cert.pem", "key": "server-key.pem"}[key]
            ): text
            for key, text in (wanted["tls"] or {}).items()
            if text
        }
        self.tls_before = {path: read_text(path) for path in self.tls}
        self.tls_differs = [path for path, text in self.tls.items() if self.tls_before[path] != text]
        state = unit_state(
            wanted["unit"],
            "ActiveState",
            "MainPID",
            "UnitFileState",
            "NeedDaemonReload",
            "LoadState",
            "DropInPaths",
            "NoNewPrivileges",
            "ExecStart",
            "Environment",
        )
        self.unit = state
        self.running = state.get("ActiveState") == "active" and wanted["installed"]
        self.pid = state.get("MainPID", "0")
        self.initialised = os.path.exists(os.path.join(wanted["datadir"], "mysql"))
        self.live = self.read() if self.running else None

    def read(self):
        rows = self.client.query("SHOW GLOBAL VARIABLES", "SHOW SESSION VARIABLES")
        self.session = dict(rows[1])
        return dict(rows[0])

    def readable(self):
        return [
            entry for entry in self.settings if entry.get("variable") and entry["compare"] != "unreadable"
        ]

    def differing(self, live):
        return [
            entry
            for entry in self.readable()
            if not matches(entry["value"], live.get(entry["variable"]), entry["compare"])
        ]

    # --- before anything is activated --------------------------------------------------------------------
    @staticmethod
    def variable_of(entry):
        """What the user would write to change it."""
        variable = entry.get("role_variable") or entry["name"]
        return f"mysql_extra_settings.{entry['name']}" if variable == "mysql_extra_settings" else variable

    def names(self, entry):
        return f"{self.variable_of(entry)}={entry.get('file_value', entry['value'])}"

    def check_case(self):
        for entry in self.settings:
            if entry["name"] == "lower_case_table_names" and self.live:
                have = self.live["lower_case_table_names"]
                if not matches(entry["value"], have):
                    raise Refusal(
                        f"{self.names(entry)}: the data directory was made with {have}, and the names of its "
                        f"tables are stored in that way; mend: set mysql_lower_case_table_names: {have}, or "
                        "dump, make a new data directory and load"
                    )

    def check_datadir(self):
        """A new, empty data directory under a server that serves would look like the loss of all data."""
        wanted = self.wanted["datadir"]
        have = os.path.normpath(self.live["datadir"]) if self.live else wanted
        if self.before and have != os.path.normpath(wanted) and not self.initialised:
            raise Refusal(
                f"mysql_datadir={wanted}: the server's data is in {have}, and {wanted} has none; mend: set "
                f"mysql_datadir: {have}, or stop the server, copy the data (cp -a {have} {wanted}), "
                "run it again"
            )

    def check_shadows(self):
        """A later file, SET PERSIST or the command line that sets one of ours to something else."""
        wanted = self.wanted
        found, files = option_files(
            server_groups(wanted["flavor"], wanted["version"]), {self.path: wanted["content"]}
        )
        self.found = found
        if self.path not in files and wanted["installed"] and files:
            raise Refusal(
                f"{self.path} is read by no option file (read: {', '.join(files) or 'none'}); mend: add "
                f"'!includedir {os.path.dirname(self.path)}/' to /etc/mysql/my.cnf"
            )
        self.check_limits()
        for name, value, path, line in found:
            if name == "skip_grant_tables" and matches(True, value or "ON"):
                raise Refusal(
                    f"{path}:{line}: skip_grant_tables lets everybody in without a password; mend: remove "
                    "it there"
                )
        for name, value, path, line in found if not wanted["cluster"] else ():
            if name == "wsrep_on" and matches(True, value):
                kind, word = "Galera", "galera"
            elif name == "group_replication_group_name":
                kind, word = "Group Replication", "group_replication"
            else:
                continue
            raise Refusal(
                f"mysql_topology=standalone: this server is a node of a {kind} cluster ({path}:{line}), "
                f"and a running cluster is not taken apart; mend: set mysql_topology: {word} for all nodes"
            )
        later, ours = {}, False
        for name, value, path, line in found:
            if path == self.path:
                ours = True
            elif ours:
                later[name] = (value, f"{path}:{line}")
        for name, value in persisted(wanted["datadir"]).items():
            later[name] = (value, f"SET PERSIST in {wanted['datadir']}/mysqld-auto.cnf")
        # as the unit would start it the next time, whatever the running one was started with
        start = self.unit.get("ExecStart", "").partition("argv[]=")[2].partition(" ; ")[0]
        for word in f"{start} {self.unit.get('Environment', '')}".replace('"', " ").split():
            name, equals, value = word.rpartition("--")[2].partition("=")
            if "--" in word and equals:
                later[option_name(name)] = (value, f"the command line of {wanted['unit']}")
        problems = []
        for entry in self.settings:
            if entry.get("section", "mysqld") != "mysqld":
                continue
            for name in {option_name(entry["name"]), entry.get("variable")} - {None}:
                if name in later and not matches(entry["value"], later[name][0], entry["compare"]):
                    value, where = later[name]
                    mend = f"RESET PERSIST {name}" if where.startswith("SET PERSIST") else "remove it there"
                    problems.append(
                        f"{self.names(entry)}: {where} sets {name} to {value} afterwards, so ours has no "
                        f"effect; mend: {mend}, or set {self.variable_of(entry)}: {value}"
                    )
        if problems:
            raise Refusal("\n".join(sorted(set(problems))))

    def check_adoption(self):
        """A server that served before us: whom we would shut out, and whose words count no longer."""
        if self.before is not None or self.cut_off or not self.running:
            return
        for entry in self.settings:
            bound = entry["name"].replace("-", "_") == "bind_address" and entry["value"] in LOOPBACK
            if not bound or entry["origin"] == "user" or self.live["bind_address"] in LOOPBACK:
                continue
            if self.live.get("skip_networking") == "ON":
                continue
            rows = self.client.query(ELSEWHERE)[0]
            if rows:
                who = ", ".join(f"{user}@{host}" for user, host in rows)
                raise Refusal(
                    f"mysql_other_users: {who} may come from other hosts, and {self.names(entry)} would shut "
                    "them out; mend: list them in mysql_other_users with the connections they need, or set "
                    "mysql_bind_address"
                )
        ours = {option_name(entry["name"]): entry for entry in self.settings if entry["section"] == "mysqld"}
        theirs = {name: (value, path, line) for name, value, path, line in self.found if path != self.path}
        for name, (value, path, line) in theirs.items():  # of two, the later one counted
            entry = ours.get(name)
            if entry and not matches(entry["value"], value, entry["compare"]):
                self.module.warn(
                    f"{path}:{line}: {name} = {value} counts no longer, {self.names(entry)} does; "
                    f"to keep it, set {self.variable_of(entry)}: {value}"
                )

    def check_limits(self):
        """A drop-in that systemd reads after ours."""
        ours, need = self.wanted["drop_in_path"], self.wanted["nofile"]
        for path in self.unit.get("DropInPaths", "").split():
            if os.path.basename(path) <= os.path.basename(ours):
                continue
            for word in re.findall(r"(?m)^\s*LimitNOFILE\s*=\s*(?:\d+:)?(\d+)", read_text(path) or ""):
                if int(word) < need:
                    raise Refusal(
                        f"mysql_open_files_limit={need}: {path} sets LimitNOFILE to {word} afterwards; mend: "
                        "remove it there and run systemctl daemon-reload"
                    )

    def judge(self):
        """The server's own binary reads the file; it stops at what it does not know."""
        wanted = self.wanted
        if not os.path.exists(wanted["binary"]):
            return
        # Where AppArmor lets MySQL read; MariaDB, which has no profile, also writes there.
        if wanted["flavor"] == "mysql":
            os.makedirs("/etc/mysql", exist_ok=True)
        scratch = tempfile.mkdtemp(
            prefix=".judged-", dir="/etc/mysql" if wanted["flavor"] == "mysql" else None
        )
        try:
            path = os.path.join(scratch, "mysqld.cnf")
            # Judged as root: the server's user may come with the package that follows.
            write_text(path, re.sub(r"(?m)^user *=.*\n", "", wanted["content"]))
            command = [wanted["binary"], f"--defaults-file={path}"]
            if wanted["flavor"] == "mysql":
                command += ["--validate-config", "--user=root", "--log-error-verbosity=2"]
                folder = "NULL"
            else:
                # its own data directory, so that it never opens the serving one's tables
                command += ["--help", "--verbose", "--user=root", f"--datadir={scratch}"]
                folder = scratch
            if not os.path.isdir(self.files_at()):  # made when the file is placed
                command += [f"--secure-file-priv={folder}"]
            done = run(command, timeout=60)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        lines = done.stderr.splitlines()
        if done.returncode != 0:
            said = [line for line in lines if "[ERROR]" in line and not line.endswith("Aborting")] or lines[
                -3:
            ]
            raise Refusal("\n".join(self.blame(line) for line in said))
        for line in lines:
            match = re.search(r"option '([\w-]+)':.*value (\S+) adjusted to (\S+?)\.?$", line)
            for entry in self.settings if match else ():
                if option_name(entry["name"]) == option_name(match.group(1)) and not matches(
                    entry["value"], match.group(3), entry["compare"]
                ):
                    raise Refusal(
                        f"{self.names(entry)}: the server would make {match.group(3)} of it; mend: set "
                        f"{self.variable_of(entry)}: {match.group(3)}"
                    )

    def files_at(self):
        """The folder of LOAD DATA and INTO OUTFILE."""
        given = [str(entry["value"]) for entry in self.settings if entry["name"] == "secure_file_priv"]
        return next((path for path in given if path.startswith("/")), "/var/lib/mysql-files")

    def blame(self, line):
        """The server's line, with the variable of ours that it speaks of."""
        words = re.sub(r"^.*?\[ERROR\]\s*(\[[^]]*\]\s*)*", "", line)
        plain = words.replace("-", "_")
        for entry in sorted(self.settings, key=lambda entry: -len(entry["name"])):
            if re.search(rf"\b{re.escape(option_name(entry['name']))}\b", plain):
                variable = self.variable_of(entry)
                return (
                    f"{self.names(entry)}: the server's own binary rejects it: {words}; "
                    f"mend: correct or remove {variable}"
                )
        return f"{self.path}: the server's own binary rejects it: {words}; mend: correct that setting"

    def check_space(self):
        place = self.wanted["datadir"]
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        values = {entry["name"]: entry["value"] for entry in self.settings}
        redo = int(
            values.get("innodb_redo_log_capacity")
            or values.get("innodb_log_file_size", 0) * values.get("innodb_log_files_in_group", 1)
        )
        have = 0
        for folder in (self.wanted["datadir"], os.path.join(self.wanted["datadir"], "#innodb_redo")):
            if os.path.isdir(folder):
                have += sum(
                    os.path.getsize(os.path.join(folder, name))
                    for name in os.listdir(folder)
                    if name.startswith(("ib_logfile", "#ib_redo"))
                )
        need = max(0, redo - have) + 64 * MIB + (0 if self.initialised else FRESH[self.wanted["flavor"]])
        free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
        if free < need:
            raise Refusal(
                f"mysql_datadir={self.wanted['datadir']}: {need // MIB} MiB are needed (redo log "
                f"{redo // MIB} MiB), {free // MIB} MiB are free on {place}; mend: make room, set "
                "mysql_datadir to a larger file system, or set mysql_innodb_redo_log_capacity lower"
            )

    # --- what must happen --------------------------------------------------------------------------------
    def decide(self):
        """Live changes and reasons for a restart of a server that runs."""
        self.to_set, self.to_reset, self.reasons = [], [], []
        if not self.running:
            return
        if self.wanted["cluster"] and self.tls_differs:  # the engine reads it when it starts
            self.reasons.append("the certificate that it shows the other nodes")
        for entry in self.differing(self.live):
            # Of a variable that the catalogue does not know, the server says whether it is dynamic.
            if entry.get("dynamic") or entry.get("kind") == "extra":
                self.to_set.append(entry)
            else:
                self.reasons.append(
                    f"{entry['variable']}: {self.live.get(entry['variable'])} -> {entry['file_value']}"
                )
        have = soft_nofile(self.pid)
        if have is not None and have < self.wanted["nofile"]:
            self.reasons.append(f"open files: {have} -> {self.wanted['nofile']}")
            # The server shrinks its caches to the limit it was started with.
            self.to_set = [
                entry for entry in self.to_set if entry["name"] not in ("max_connections", "table_open_cache")
            ]
        if self.sandbox_waits():
            self.reasons.append("the unit's sandbox")
        silent = {option_name(entry["name"]) for entry in self.settings} - {
            option_name(entry["name"]) for entry in self.readable()
        }
        managed = {entry.get("variable") for entry in self.settings}
        old, new = self.lines(self.good), self.lines(self.wanted["content"])
        for key in sorted(set(old) | set(new)) if self.good is not None else ():
            if key[0] != "mysqld" or old.get(key) == new.get(key):
                continue
            if key in new and key[1] in silent:
                self.reasons.append(f"{key[1]}: {old.get(key)} -> {new[key]}")
            elif key not in new and key[1] in self.live and key[1] not in managed:
                self.to_reset.append(key[1])
            elif key not in new and key[1] not in managed:
                self.reasons.append(f"{key[1]}: {old[key]} -> no longer set")
        if self.wanted["restart"]:
            self.reasons.append("playbooks/restart.yml")

    def sandbox_waits(self):
        """Is the process confined otherwise than its unit says, or is to say?"""

        def confining(text):
            rest = ("#", "LimitNOFILE=", "Restart=", "RestartSec=")
            return [line for line in (text or "").splitlines() if line and not line.startswith(rest)]

        ours = "NoNewPrivileges=true" in self.wanted["drop_in"] and self.unit.get("NeedDaemonReload") == "yes"
        free = re.search(r"(?m)^NoNewPrivs:\s+0", read_text(f"/proc/{self.pid}/status") or "")
        return confining(self.drop_in_before) != confining(self.wanted["drop_in"]) or bool(
            free and (ours or self.unit.get("NoNewPrivileges") == "yes")
        )

    @staticmethod
    def lines(text):
        return {(section, name): value for section, name, value, _ in option_lines(text or "")}

    def fingerprint(self):
        """Everything that a start depends on, as far as it can be seen, and the start itself."""
        unit = unit_state(self.wanted["unit"], "LimitNOFILE", "ExecStart", "Environment", "InvocationID")
        unit["ExecStart"] = unit.get("ExecStart", "").partition("start_time")[0]
        seen = [
            self.found,
            persisted(self.wanted["datadir"]),
            self.wanted["content"],
            self.wanted["drop_in"],
            unit,
        ]
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()

    def futile(self):
        """We restarted for this before, it did not help, and nothing has changed since."""
        return (read_text(FUTILE) or "").strip() == self.fingerprint()

    def wait_for_transactions(self):
        """Until no transaction would be cut off that took long to come this far. Not for ever."""
        limit = self.wanted["restart_wait"]
        give_up = time.monotonic() + limit
        while limit:
            rows = self.client.query(OPEN)[0]
            if not rows:
                return
            if time.monotonic() >= give_up:
                who = ", ".join(
                    f"connection {number} of {user}@{host.partition(':')[0]}, {seconds} s"
                    for number, user, host, seconds in rows
                )
                raise Refusal(
                    f"mysql_restart_wait={limit}: a restart ({'; '.join(self.reasons)}) would cut off "
                    f"transactions that are still open after {limit} s: {who}; nothing was changed; mend: "
                    f"KILL {rows[0][0]}, or set mysql_restart_wait higher, or to 0 to cut them off"
                )
            time.sleep(0.5)

    # --- doing it ----------------------------------------------------------------------------------------
    def owner(self):
        """The server's user; made here where the package, which would make it, comes after the file."""
        try:
            entry = pwd.getpwnam("mysql")
        except KeyError:
            run(
                [
                    "useradd",
                    "--system",
                    "--user-group",
                    "--home-dir",
                    "/nonexistent",
                    "--no-create-home",
                    "--shell",
                    "/bin/false",
                    "--comment",
                    "MySQL Server",
                    "mysql",
                ]
            )
            entry = pwd.getpwnam("mysql")
        return entry.pw_uid, entry.pw_gid

    def wrong_modes(self):
        """(path, owner, group, mode) of what is not as it must be. Mends a run that was cut off, too."""
        try:
            entry = pwd.getpwnam("mysql")
        except KeyError:
            return []
        wrong = []
        want = [
            (path, 0, entry.pw_gid, 0o640) if path.endswith("-key.pem") else (path, 0, 0, 0o644)
            for path in (
                os.path.join(self.wanted["tls_path"], name)
                for name in ("ca.pem", "server-cert.pem", "server-key.pem")
            )
        ]
        want += [(self.path, 0, 0, 0o644), (self.wanted["drop_in_path"], 0, 0, 0o644)]
        for path, uid, gid, mode in want:
            if os.path.exists(path):
                state = os.stat(path)
                if (state.st_uid, state.st_gid, state.st_mode & 0o7777) != (uid, gid, mode):
                    wrong.append((path, uid, gid, mode))
        # MariaDB's package leaves it open to all; clients need to come to a socket in it.
        datadir = self.wanted["datadir"].rstrip("/")
        if self.initialised and not self.wanted["socket"].startswith(datadir + "/"):
            state = os.stat(datadir)
            if state.st_mode & 0o027:
                mode = state.st_mode & 0o7750
                wrong.append((datadir, state.st_uid, state.st_gid, mode))
        return wrong

    def missing_directories(self):
        return [path for path in self.wanted["directories"] or [] if not os.path.isdir(path)]

    def confinement(self):
        """Rules that AppArmor's profile of MySQL lacks for folders of the user's choice. Not tested here."""
        if (
            self.wanted["flavor"] != "mysql"
            or (read_text("/sys/module/apparmor/parameters/enabled") or "")[:1] != "Y"
        ):
            return ""
        known = ("/var/lib/mysql", "/var/lib/mysql-files", "/var/log/mysql", "/tmp", "/var/tmp")  # noqa: S108 (the profile's)
        folders = {*(self.wanted["directories"] or []), self.wanted["datadir"]}
        folders |= {str(entry["value"]) for entry in self.settings if entry["name"] == "tmpdir"}
        missing = ""
        have = read_text(APPARMOR_LOCAL) or ""
        for folder in sorted(folder.rstrip("/") for folder in folders):
            rule = f"{folder}/ r,\n{folder}/** rwk,\n"
            if folder not in known and rule not in have:
                missing += rule
        return missing

    def place(self):
        uid, gid = self.owner()
        if self.confinement():
            write_text(APPARMOR_LOCAL, (read_text(APPARMOR_LOCAL) or "") + self.confinement())
            if os.path.exists(APPARMOR):
                run(["apparmor_parser", "-r", APPARMOR])
            self.actions.append(f"file {APPARMOR_LOCAL}")
        for path in self.missing_directories():
            os.makedirs(path, exist_ok=True)
            group = grp.getgrnam("adm").gr_gid if path.startswith("/var/log/") else gid
            os.chown(path, uid, group)
            os.chmod(path, 0o750)  # noqa: S103 (its group reads the logs)
            self.actions.append(f"folder {path}")
        for path in self.tls_differs:
            key = path.endswith("-key.pem")
            write_text(path, self.tls[path], 0o640 if key else 0o644, (0, gid) if key else (0, 0))
            self.actions.append(f"file {path}")
        if self.drop_in_differs:
            write_text(self.wanted["drop_in_path"], self.wanted["drop_in"])
            self.actions.append(f"file {self.wanted['drop_in_path']}")
        if self.differs:
            if self.good is not None and not self.cut_off:
                write_text(self.kept, self.good)
            write_text(self.path, self.wanted["content"])
            self.actions.append(f"file {self.path}")
        for path, uid, gid, mode in self.wrong_modes():
            os.chown(path, uid, gid)
            os.chmod(path, mode)
            self.actions.append(f"mode {path}")

    def set_live(self):
        """SET GLOBAL what is dynamic. What the server does not take live becomes a reason for a restart."""
        before, done = self.live, []
        todo = [
            (entry["variable"], literal(entry["value"]), entry["file_value"], entry) for entry in self.to_set
        ]
        todo += [(name, self.fallback(name), "no longer set", None) for name in self.to_reset]
        for name, text, wanted, entry in todo:
            try:
                self.client.query(f"SET GLOBAL {name} = {text}")
                done.append((name, wanted, entry))
            except SqlError as error:
                if re.search(r"ERROR (1238|1621|1230)\b", str(error)):  # read only, or without a default
                    self.reasons.append(f"{name}: {before.get(name)} -> {wanted}")
                    continue
                self.undo(done, before)
                what = self.names(entry) if entry else f"{name}={text}"
                raise Refusal(
                    f"{what}: the server rejects it: {error}; nothing was changed; mend: correct "
                    f"{self.variable_of(entry) if entry else name}"
                ) from error
        if not done:
            return
        for _ in range(20):  # some, as the buffer pool's size, take a moment
            self.live = self.read()
            stubborn = self.differing(self.live)
            if not any(entry in stubborn for _, _, entry in done):
                break
            time.sleep(0.25)
        for name, wanted, entry in done:
            if entry in stubborn:
                self.reasons.append(f"{name}: {self.live.get(name)} -> {wanted}")
            elif before.get(name) != self.live.get(name):
                self.actions.append(f"live {name}: {before.get(name)} -> {self.live.get(name)}")
        if self.reasons and self.wanted["restart_policy"] == "never":
            self.undo(done, before)
        if self.reasons and self.wanted["restart_policy"] == "auto":
            try:
                self.wait_for_transactions()
            except Refusal:
                self.undo(done, before)
                raise

    def fallback(self, name):
        """What holds where our file says nothing: another file's word, else the server's default."""
        others = [value for other, value, path, _ in self.found if other == name and path != self.path]
        return literal(others[-1]) if others else "DEFAULT"

    def undo(self, done, before):
        for name, _, _ in reversed(done):
            self.client.query(f"SET GLOBAL {name} = {literal(before[name])}")
        self.actions.clear()

    def reload_tls(self):
        statement = "ALTER INSTANCE RELOAD TLS" if self.wanted["flavor"] == "mysql" else "FLUSH SSL"
        self.client.query(statement)
        self.actions.append("certificate reloaded")

    def put_back(self):
        """The files that last served well; of a server that served without ours, none of them."""
        for path, text in ((self.path, self.good), (self.wanted["drop_in_path"], self.drop_in_before)):
            if text is not None:
                write_text(path, text)
            elif self.running and os.path.exists(path):
                os.unlink(path)
        for path, text in self.tls_before.items():
            if text is not None:
                gid = pwd.getpwnam("mysql").pw_gid
                key = path.endswith("-key.pem")
                write_text(path, text, 0o640 if key else 0o644, (0, gid) if key else (0, 0))
        if os.path.exists(self.kept):
            os.unlink(self.kept)
        run(["systemctl", "daemon-reload"])

    def log_path(self):
        for entry in self.settings:
            if entry["name"] == "log_error":
                return str(entry["value"])
        return ""

    def start(self, verb):
        """True when the server answers; else False and its own lines in self.said."""
        log, since = self.log_path(), time.time()
        offset = os.path.getsize(log) if log and os.path.exists(log) else 0
        run(["systemctl", "reset-failed", self.wanted["unit"]])
        done = run(["systemctl", verb, self.wanted["unit"]], timeout=self.wanted["start_timeout"])
        if done.returncode == 0:
            for _ in range(100):
                if self.client.alive():
                    return True
                time.sleep(0.1)
        self.said = []
        if log and os.path.exists(log):
            with open(log, encoding="utf-8", errors="replace") as handle:
                handle.seek(offset if os.path.getsize(log) >= offset else 0)
                self.said += [line.strip() for line in handle if re.search(r"\[ERROR\]|\[Fatal", line)]
        journal = run(
            [
                "journalctl",
                "--quiet",
                "--no-pager",
                "-o",
                "cat",
                "-u",
                self.wanted["unit"],
                f"--since=@{int(since)}",
            ]
        )
        self.said += [
            line.strip() for line in journal.stdout.splitlines() if re.search(r"ERROR|rror:|atal", line)
        ]
        for status in sorted(set(re.findall(r"status=(2\d\d/[A-Z_]+)", journal.stdout))):
            self.said.append(
                f"systemd cannot make the unit's sandbox here ({status}); mend: set mysql_unit_sandbox: false"
            )
        self.said = list(dict.fromkeys(self.said))[-12:] or [done.stderr.strip() or "no answer on the socket"]
        return False

    def bring_up(self, verb):
        """Start or restart; on failure the previous files and the old server."""
        if self.start(verb):
            self.actions.append("restarted" if verb == "restart" else "started")
            return
        lines = "\n  ".join(self.said)
        changed = self.differs or self.cut_off or self.drop_in_differs or self.tls_differs
        run(["systemctl", "stop", self.wanted["unit"]], timeout=self.wanted["start_timeout"])
        if not changed or (self.good is None and not self.running):
            self.module.fail_json(
                msg=f"{self.wanted['unit']} does not start with {self.path}; the server says:\n  {lines}\n"
                "mend: correct the setting named there and run again",
                actions=self.actions,
            )
        self.put_back()
        if self.start("start"):
            end = "the previous file is back and the server serves again"
        else:
            end = "it does not start with the previous file either:\n  " + "\n  ".join(self.said)
        self.module.fail_json(
            msg=f"{self.wanted['unit']} did not come back with the new {self.path}; the server says:\n"
            f"  {lines}\n{end}; mend: correct the setting named there and run again",
            rolled_back=True,
        )

    def read_back(self):
        """Declared, file and live must agree; a plain session must see the same."""
        live = self.read()
        waiting = {reason.split(":")[0] for reason in self.pending}
        problems = []
        for entry in self.readable():
            name = entry["variable"]
            have = live.get(name)
            if name in waiting or (entry["name"] in ("max_connections", "table_open_cache") and self.pending):
                continue
            if name not in live:
                problems.append(f"{self.names(entry)}: the server has no variable {name}; mend: remove it")
            elif not matches(entry["value"], have, entry["compare"]):
                problems.append(
                    f"{self.names(entry)}: the server runs with {have}; mend: set "
                    f"{self.variable_of(entry)}: {have}, or look for what overrides it"
                )
            elif (
                name in self.session
                and not CLIENTS_OWN.match(name)
                and not matches(entry["value"], self.session[name], entry["compare"])
            ):
                problems.append(
                    f"{self.names(entry)}: a new session has {self.session[name]}; mend: remove what "
                    "sets it for sessions (init_connect?)"
                )
        have = soft_nofile(unit_state(self.wanted["unit"], "MainPID").get("MainPID", "0"))
        if have is not None and have < self.wanted["nofile"] and not self.pending:
            problems.append(
                f"open files: the server runs with {have}, {self.wanted['nofile']} are needed; mend: look "
                f"for a later drop-in of {self.wanted['unit']} with LimitNOFILE (systemctl cat)"
            )
        if problems:
            self.module.fail_json(
                msg="Declared and live differ:\n" + "\n".join(problems), actions=self.actions
            )


def main():
    module = AnsibleModule(
        argument_spec={
            "content": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
            "settings": {"type": "list", "elements": "dict", "required": True},
            "flavor": {"type": "str", "required": True, "choices": ["mysql", "mariadb"]},
            "version": {"type": "str", "required": True},
            "binary": {"type": "path", "required": True},
            "unit": {"type": "str", "required": True},
            "socket": {"type": "path", "required": True},
            "datadir": {"type": "path", "required": True},
            "installed": {"type": "bool", "default": True},
            "nofile": {"type": "int", "required": True},
            "drop_in": {"type": "str", "required": True},
            "drop_in_path": {"type": "path", "required": True},
            "directories": {"type": "list", "elements": "path"},
            "tls": {
                "type": "dict",
                "options": {
                    "ca": {"type": "str"},
                    "cert": {"type": "str"},
                    "key": {"type": "str", "no_log": True},
                },
            },
            "tls_path": {"type": "path", "default": "/etc/mysql/tls"},
            "restart_policy": {"type": "str", "default": "auto", "choices": ["auto", "report", "never"]},
            "start_timeout": {"type": "int", "default": 300},
            "restart": {"type": "bool", "default": False},
            "restart_wait": {"type": "int", "default": 60},
            "cluster": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    job = Job(module)
    try:
        result = work(job, module)
    except Refusal as refusal:
        module.fail_json(msg=str(refusal), actions=job.actions)
    except SqlError as error:
        module.fail_json(
            msg=f"{module.params['unit']} does not answer root on {module.params['socket']}: {error}; "
            "mend: let root in by the socket (auth_socket, unix_socket)",
            actions=job.actions,
        )
    module.exit_json(**result)


def refuse_restart(job, policy):
    if job.reasons and policy == "never":
        raise Refusal(
            "mysql_restart_policy=never: a restart would be needed for "
            + "; ".join(job.reasons)
            + "; mend: set mysql_restart_policy: auto, or take these settings back"
        )


def work(job, module):
    wanted = module.params
    job.look()
    job.check_case()
    job.check_datadir()
    job.check_shadows()
    job.check_adoption()
    if job.differs:
        job.judge()
    if job.differs or not job.initialised:
        job.check_space()
    job.decide()
    enabled = job.unit.get("UnitFileState") == "enabled"
    policy = wanted["restart_policy"]
    refuse_restart(job, policy)
    if job.reasons and policy == "auto" and not wanted["restart"] and job.futile():
        raise Refusal(
            "The server was started with this very file and still differs: "
            + "; ".join(job.reasons)
            + "; mend: look for what overrides it (systemctl cat, SHOW VARIABLES, its error log)"
        )

    result = {"restarted": False, "pending_restart": [], "actions": job.actions, "changed": False}
    diff = {
        "before": job.before or "",
        "after": wanted["content"],
        "before_header": job.path,
        "after_header": job.path,
    }
    changed = bool(
        job.differs
        or job.drop_in_differs
        or job.tls_differs
        or job.to_set
        or job.to_reset
        or job.cut_off
        or job.missing_directories()
        or job.confinement()
        or job.wrong_modes()
        or (wanted["installed"] and (not job.running or not enabled))
    )
    if job.reasons and policy == "auto":
        changed = True
    if module.check_mode:
        would = [f"live {entry['variable']}" for entry in job.to_set]
        would += [f"live {name}" for name in job.to_reset] + [f"restart for {r}" for r in job.reasons]
        return result | {"changed": changed, "actions": would, "diff": diff}

    job.pending = []
    if job.running and job.reasons and policy == "auto":
        job.wait_for_transactions()
    if job.running and (not job.reasons or policy == "report"):
        job.set_live()
        refuse_restart(job, policy)
    job.place()
    if wanted["installed"]:
        if job.drop_in_differs or job.unit.get("NeedDaemonReload") == "yes":
            run(["systemctl", "daemon-reload"])
        if job.unit.get("LoadState") == "masked":
            run(["systemctl", "unmask", "--runtime", wanted["unit"]])
            job.actions.append("unmasked")
        if not enabled:
            run(["systemctl", "enable", wanted["unit"]])
            job.actions.append("enabled")
        if not job.running:
            job.bring_up("start")
        else:
            if job.reasons and policy == "auto":
                job.bring_up("restart")
                result["restarted"] = True
            elif job.tls_differs:
                job.reload_tls()
            if job.reasons and policy == "report":
                job.pending = job.reasons
                module.warn("mysql_restart_policy=report: waits for a restart: " + "; ".join(job.reasons))
        job.read_back()
        mark = os.path.join(
            os.path.dirname(wanted["datadir"]), f".{os.path.basename(wanted['datadir'])}-initialising"
        )
        if os.path.exists(mark):  # of a run that was cut off
            os.unlink(mark)
        if os.path.exists(job.kept):
            os.unlink(job.kept)
    return result | {"changed": changed or bool(job.actions), "pending_restart": job.pending, "diff": diff}


if __name__ == "__main__":
    main()
