#!/usr/bin/python3
"""Backups of one MySQL or MariaDB server: taken, copied off the host, proven by a restore, restored.

    db-backup setup            the account, the repository (begun where there is none)
    db-backup account          the statements that make MySQL's account, for a node that may not
    db-backup take             a whole copy, checksums of its tables, the binary logs; old ones are forgotten
    db-backup logs             the binary logs up to now
    db-backup prove            restore the newest copy into a scratch server and compare the checksums
    db-backup restore [--to "2026-11-22 10:00:00"] [--overwrite] [--check]
    db-backup restore [--to ...] [--overwrite] --prepare     a node of a cluster: make the data directory,
    db-backup place                                          and once the other nodes are stopped: serve it
    db-backup list

A copy counts once its note is in the repository: the checksums of every table at a later position of the
binary log (one consistent snapshot of the server). The proof replays the binary log from the copy's own
position to that one, so it proves the copy and the logs together. Times are UTC. Standard library only.
"""

import argparse
import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket as sockets
import subprocess
import sys
import time
import uuid

HOME = "/var/lib/db-backup"
CONFIG = "/etc/db-backup"
LOCK = "/run/db-backup.lock"
FORM = "%Y-%m-%d %H:%M:%S"
MARK = ".db-backup"
PREPARED, PLACED = f"{HOME}/prepared.json", f"{HOME}/placed.json"
SYSTEM = "('mysql', 'sys', 'performance_schema', 'information_schema')"
START_SECONDS = 300
CONNECTIONS = 4  # mariadb-backup opens three; as planner.fleet.BACKUP_CONNECTIONS
ACCOUNT = {
    flavor: (
        "CREATE USER IF NOT EXISTS 'backup'@'localhost';\n"
        f"ALTER USER 'backup'@'localhost' {login} WITH MAX_USER_CONNECTIONS {CONNECTIONS};\n"
        "REVOKE ALL PRIVILEGES, GRANT OPTION FROM 'backup'@'localhost';\n"
        f"GRANT SELECT, RELOAD, PROCESS, SHOW VIEW, TRIGGER, EVENT, {rights} ON *.*"
        " TO 'backup'@'localhost';\n"
    )
    for flavor, login, rights in (
        ("mysql", "IDENTIFIED WITH auth_socket AS 'root'", "REPLICATION CLIENT, SHOW_ROUTINE"),
        ("mariadb", "IDENTIFIED BY '{secret}'", "LOCK TABLES, BINLOG MONITOR, CONNECTION ADMIN"),
    )
}


class Trouble(Exception):
    """One message: what, where, mend."""


def now():
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None, microsecond=0)


def when(text):
    return datetime.datetime.strptime(text, FORM)


def read_json(path, default):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return default


def text_of(path):
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        return file.read().strip()
    return ""


def write_text(path, text, mode=0o600):
    scratch = f"{path}.new"
    with os.fdopen(
        os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8"
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def write_json(path, value, mode=0o600):
    write_text(path, json.dumps(value, indent=1) + "\n", mode)


def run(words, **more):
    more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "replace"} | more
    return subprocess.run(words, check=False, **more)  # noqa: S603


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def pipe(first, second, first_environment=None, second_environment=None, refused=None):
    """first | second; neither may fail. What the second said; refused(complaint) is raised where it did."""
    with open(os.path.join(HOME, "first.err"), "w+", encoding="utf-8", errors="replace") as complaints:
        out = subprocess.PIPE
        giver = subprocess.Popen(first, stdout=out, stderr=complaints, env=first_environment)  # noqa: S603
        taker = subprocess.Popen(  # noqa: S603
            second,
            stdin=giver.stdout,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=second_environment,
        )
        giver.stdout.close()
        said, wrong = taker.communicate()
        giver.wait()
        if taker.returncode != 0:
            raise refused(wrong) if refused else Trouble(f"{second[0]}: {last_line(wrong)}")
        if giver.returncode != 0:
            complaints.seek(0)
            raise Trouble(f"{first[0]}: {last_line(complaints.read())}")
    return said


class Repository:
    """Where copies go: restic, which encrypts, forgets by policy and speaks SFTP, S3 and rclone."""

    def __init__(self, config):
        self.where = config["repository"]
        self.keep = config["keep"]
        self.words = ["restic", "--quiet", f"--password-file={CONFIG}/password"]
        found = re.match(r"^sftp:(?://)?([^:/]+)(?::(\d+)/)?[:/]?(.*)$", self.where)
        if found and config["ssh_key"]:
            target, port, _ = found.groups()
            ssh = f"ssh -i {CONFIG}/ssh_key -o UserKnownHostsFile={CONFIG}/known_hosts"
            ssh += " -o StrictHostKeyChecking=yes -o BatchMode=yes -o ConnectTimeout=10"
            ssh += f" -p {port or 22} {target} -s sftp"
            self.words += ["-o", f"sftp.command={ssh}"]
        self.environment = {
            **os.environ,
            **read_json(f"{CONFIG}/environment.json", {}),
            "RESTIC_REPOSITORY": self.where,
            "RESTIC_CACHE_DIR": "/var/cache/db-backup",
            "TMPDIR": HOME,
            "TZ": "UTC",
        }

    def call(self, *words, **more):
        return run([*self.words, *words], env=self.environment, **more)

    def refused(self, text):
        said = re.findall(r'"message":"(.*?)"}', text)  # where restic speaks JSON
        text = said[-1] if said else text
        if "no space left" in text.lower() or "quota" in text.lower():
            what = "is full: " + last_line(text)
            mend = "make room there, or keep less (backup_keep_daily, backup_keep_weekly)"
        elif "wrong password" in text:
            what = "is not ours: its password is another one"
            mend = "set backup_repository to a place of our own, or backup_password to that repository's"
        else:
            found = re.search(r"subprocess ssh: (.+)", text)
            what = "cannot be used: " + (found[1] if found else last_line(text))
            mend = "backup_repository, backup_ssh_key, backup_ssh_known_hosts, or the target itself"
        return Trouble(f"backup_repository={self.where} {what}; mend: {mend}")

    def ask(self, *words, **more):
        done = self.call(*words, **more)
        if done.returncode != 0:
            raise self.refused(done.stderr)
        return done.stdout

    def check(self):
        """The repository opens with our password and is the one it was; True where there is none yet."""
        done = self.call("cat", "config")
        known = read_json(f"{HOME}/repository.json", {})
        known = known.get("id") if known.get("where") == self.where else None
        if done.returncode == 0:
            found = json.loads(done.stdout)["id"]
            if known not in (None, found):
                raise Trouble(
                    f"backup_repository={self.where} is not ours: it was {known[:8]}, it is {found[:8]}; "
                    f"mend: bring the old one back, or remove {HOME}/repository.json to begin with this one"
                )
            if known is None:
                write_json(f"{HOME}/repository.json", {"where": self.where, "id": found})
            return False
        none = (
            "unable to open config file" in done.stderr and "not exist" in done.stderr
        )  # before restic 0.17
        if done.returncode == 10 or none:
            if known is None:
                return True
            raise Trouble(
                f"backup_repository={self.where} is gone: repository {known[:8]} was there; "
                f"mend: bring it back, or remove {HOME}/repository.json to begin a new one"
            )
        raise self.refused(done.stderr)

    def begin(self):
        self.ask("init")
        self.check()

    def snapshots(self, tag):
        found = json.loads(
            self.ask("snapshots", "--json", "--no-lock", f"--tag={tag}", f"--host={sockets.gethostname()}")
        )
        return sorted(found or [], key=lambda entry: entry["time"])

    def save_stream(self, words, name, tag, environment=None):
        said = pipe(
            words,
            [*self.words, "backup", "--json", "--stdin", f"--stdin-filename={name}", f"--tag={tag}"],
            environment,
            self.environment,
            self.refused,
        )
        return summary(said)

    def save(self, paths, tag):
        return summary(self.ask("backup", "--json", f"--tag={tag}", *paths))

    def forget(self):
        self.ask(
            "forget",
            "--group-by=host,tags",
            "--keep-within=1d",
            f"--keep-daily={self.keep['daily']}",
            f"--keep-weekly={self.keep['weekly']}",
            "--prune",
        )


def summary(said):
    for line in reversed(said.splitlines()):
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if entry.get("snapshot_id"):
                return entry["snapshot_id"]
    raise Trouble("restic named no snapshot; mend: see its output in the journal")


class Server:
    """A server reached by its socket: the live one as the account `backup`, a scratch one as root."""

    def __init__(self, config, socket, user):
        self.flavor, self.socket, self.user = config["flavor"], socket, user
        self.client = "mariadb" if self.flavor == "mariadb" else "mysql"

    @property
    def login(self):
        if self.flavor == "mariadb" and self.user == "backup":
            return [f"--defaults-file={CONFIG}/client.cnf", f"--socket={self.socket}"]
        return ["--no-defaults", f"--user={self.user}", f"--socket={self.socket}"]

    def ask(self, text):
        words = [
            self.client,
            *self.login,
            "--batch",
            "--skip-column-names",
            "--default-character-set=utf8mb4",
        ]
        done = run(words, input=text)
        if done.returncode != 0:
            raise Trouble(f"{self.socket}: {last_line(done.stderr)}")
        return [line.split("\t") for line in done.stdout.splitlines()]

    def alive(self):
        with contextlib.suppress(Trouble):
            return self.ask("SELECT 1;") == [["1"]]
        return False

    def refused(self):
        """Whether it does not let the account in; a server that is full or down says nothing of that."""
        if self.flavor == "mariadb" and not os.path.exists(f"{CONFIG}/client.cnf"):
            return True
        try:
            self.ask("SELECT 1;")
        except Trouble as trouble:
            return bool(re.search(r"ERROR (1045|1698)\b", str(trouble)))
        return False

    @property
    def position_statement(self):
        return "SHOW MASTER STATUS;" if self.flavor == "mariadb" else "SHOW BINARY LOG STATUS;"

    def tables(self):
        return [
            f"`{schema.replace('`', '``')}`.`{name.replace('`', '``')}`"
            for schema, name in self.ask(
                "SELECT table_schema, table_name FROM information_schema.tables "  # noqa: S608
                f"WHERE table_type = 'BASE TABLE' AND engine = 'InnoDB' AND table_schema NOT IN {SYSTEM} "
                "ORDER BY 1, 2;"
            )
        ]

    def checksums(self, tables):
        """{table: checksum}; what is dropped meanwhile has none."""
        rows = self.ask(f"CHECKSUM TABLE {', '.join(tables)};") if tables else []
        return {name: value for name, value in rows if value != "NULL"}

    def snapshot(self):
        """(binary log, position, {table: checksum}) of one moment."""
        tables = self.tables()
        rows = self.ask(
            "SET SESSION lock_wait_timeout = 10; SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ;\n"
            "FLUSH TABLES WITH READ LOCK; START TRANSACTION WITH CONSISTENT SNAPSHOT;\n"
            f"{self.position_statement} UNLOCK TABLES;\n"
            + (f"CHECKSUM TABLE {', '.join(tables)};" if tables else "")
        )
        return rows[0][0], int(rows[0][1]), {name: value for name, value in rows[1:] if value != "NULL"}


class Scratch:
    """A server of its own on a folder: no network, small buffers, no binary log."""

    def __init__(self, config, folder, shape):
        self.config, self.folder, self.shape = config, folder, shape
        self.socket = os.path.join(HOME, "run", "scratch.sock")
        self.log = os.path.join(HOME, "scratch.log")
        self.server = Server(config, self.socket, "root")
        self.process = None

    def words(self):
        words = [
            self.config["binary"],
            "--no-defaults",
            "--user=mysql",
            f"--datadir={self.folder}",
            f"--lower-case-table-names={self.shape['lower_case_table_names']}",
            f"--innodb-page-size={self.shape['innodb_page_size']}",
            f"--log-error={self.log}",
            f"--innodb-buffer-pool-size={self.config['buffer_pool']}",
            "--performance-schema=OFF",
        ]
        if self.config["flavor"] == "mysql":
            words.append("--mysqlx=OFF")
        return words

    def initialise(self):
        done = run([*self.words(), "--initialize-insecure"])
        if done.returncode != 0:
            raise Trouble(f"{self.folder}: no scratch server can be made there: {self.complaint()}")

    def complaint(self):
        with contextlib.suppress(OSError), open(self.log, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file if "[ERROR]" in line]
            return lines[0] if lines else f"see {self.log}"
        return f"see {self.log}"

    def __enter__(self):
        for path in (self.log, self.socket):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        write_text(self.log, "", 0o640)
        account = pwd.getpwnam("mysql")
        os.makedirs(os.path.dirname(self.socket), mode=0o700, exist_ok=True)
        for path in (self.log, os.path.dirname(self.socket)):
            os.chown(path, account.pw_uid, account.pw_gid)
        if not os.path.exists(os.path.join(self.folder, "ibdata1")):
            self.initialise()
        words = [
            *self.words(),
            f"--socket={self.socket}",
            f"--pid-file={self.folder}/scratch.pid",
            "--skip-networking",
            "--skip-log-bin",
            "--max-connections=8",
            "--max-allowed-packet=1G",
            "--innodb-flush-log-at-trx-commit=0",
            "--event-scheduler=OFF",
        ]
        if self.config["flavor"] == "mysql":
            words.append("--plugin-load-add=auth_socket.so")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(words, **quiet)  # noqa: S603
        end = time.monotonic() + START_SECONDS
        while not self.server.alive():
            if self.process.poll() is not None or time.monotonic() > end:
                self.__exit__()
                raise Trouble(f"{self.folder}: the scratch server does not start: {self.complaint()}")
            time.sleep(0.2)
        return self.server

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait()


class Backup:
    def __init__(self):
        self.config = read_json(f"{CONFIG}/config.json", None)
        if self.config is None:
            raise Trouble(
                f"{CONFIG}/config.json is not there; mend: run playbook.yml with backup_repository set"
            )
        self.repository = Repository(self.config)
        self.live = Server(self.config, self.config["socket"], "backup")
        self.mysql = self.config["flavor"] == "mysql"
        os.makedirs(HOME, exist_ok=True)
        os.chmod(HOME, 0o711)  # noqa: S103 (the scratch server's own folders are in it)

    # --- small words
    def timeline(self):
        """The history that the server is on; a restore begins another one, and so does a copy of all data
        that a node of a cluster got from another node: its own binary log does not lead there.
        """
        path = f"{HOME}/timeline"
        known = text_of(path)
        if self.config["cluster"] and known and not self.same_data():
            known = ""
        if not known:
            known = uuid.uuid4().hex
            write_text(path, known)
            if self.config["cluster"]:
                self.mark(known)
                write_text(f"{HOME}/origin", self.origin())
        return known

    def same_data(self):
        """Whether a node's data are still those of its history."""
        if self.live.alive():
            known = text_of(f"{HOME}/origin")  # none: it had backups before it was a node
            return bool(known) and self.origin() == known
        mark = text_of(os.path.join(self.config["datadir"], MARK))
        if mark and text_of(f"{HOME}/origin").startswith(mark):
            return True
        raise Trouble(
            "the server does not answer, and its data are not those that its last copy was taken of: its "
            "binary logs lead nowhere yet; mend: start it, then db-backup take"
        )

    def mark(self, text):
        """A name in the data directory that does not outlive a copy from another node (Galera empties it)."""
        path = os.path.join(self.config["datadir"], MARK)
        owner = os.stat(self.config["datadir"])
        write_text(path, text)
        os.chown(path, owner.st_uid, owner.st_gid)

    def origin(self):
        """Where these data come from: another value after a copy from another node."""
        clone = ""
        if self.mysql:  # a server that never cloned, or does not know how, has no row or no table
            with contextlib.suppress(Trouble):
                clone = json.dumps(self.live.ask("SELECT BEGIN_TIME FROM performance_schema.clone_status;"))
        return f"{text_of(os.path.join(self.config['datadir'], MARK))} {clone}".strip()

    def notes(self):
        """The notes of all copies, oldest first."""
        path = f"{HOME}/notes.json"
        known = read_json(path, {})
        found = {}
        for entry in self.repository.snapshots("note"):
            name = entry["id"]
            if name not in known:
                known[name] = json.loads(self.repository.ask("dump", "--no-lock", name, f"{HOME}/note.json"))
            found[name] = known[name]
        write_json(path, found)
        return sorted(found.values(), key=lambda note: note["taken"])

    def let_in(self):
        """The account, where the server that answers does not know it, or not by our password: a copy of all
        data from another node brings that node's accounts. Whether it was made.
        """
        root = Server(self.config, self.config["socket"], "root")
        if not self.live.refused() or not root.alive():
            return False
        if not self.mysql:
            # MariaDB's unix_socket lets only the user of the same name in; the server's files want root.
            secret = secrets.token_urlsafe(32)
            root.ask(ACCOUNT["mariadb"].format(secret=secret))
            write_text(f"{CONFIG}/client.cnf", f'[client]\nuser=backup\npassword="{secret}"\n')
        elif root.ask("SELECT @@super_read_only;") == [["1"]]:
            raise Trouble(
                "the account backup@localhost is not there, and this node does not write; "
                "mend: on the node that writes, what `db-backup account` says"
            )
        else:
            root.ask(ACCOUNT["mysql"])
        return True

    # --- verbs
    def setup(self):
        changed = []
        root = Server(self.config, self.config["socket"], "root")
        if self.let_in():
            changed.append("account")
        if root.ask("SELECT @@log_bin;") != [["1"]]:
            raise Trouble(
                "the server keeps no binary log; mend: log_bin on (mysql_restart_policy: auto restarts it)"
            )
        if self.repository.check():
            self.repository.begin()
            changed.append("repository")
        return changed

    def shape(self):
        names = ("lower_case_table_names", "innodb_page_size", "version", "log_bin_basename", "datadir")
        rows = self.live.ask("SELECT " + ", ".join(f"@@{name}" for name in names) + ";")
        return dict(zip(names, rows[0], strict=True))

    def logs(self):
        """Every finished binary log on this host goes to the repository; returns until when they reach."""
        alive = self.live.alive()
        until = now()
        if alive:
            shape = self.shape()
            write_json(f"{HOME}/shape.json", shape)
            self.live.ask("FLUSH BINARY LOGS;")
        else:
            shape = read_json(f"{HOME}/shape.json", None)
            if shape is None:
                raise Trouble(
                    "the server does not answer, and where its binary logs are is not known; mend: start it"
                )
        base = shape["log_bin_basename"]
        folder, name = os.path.split(base)
        files = sorted(
            os.path.join(folder, entry)
            for entry in os.listdir(folder)
            if re.fullmatch(re.escape(name) + r"\.\d+", entry)
        )
        if alive:
            del files[-1]  # the server still writes it
        if not files:
            raise Trouble(f"{base}: no binary log is there; mend: log_bin on")
        write_json(
            f"{HOME}/until.json", {"until": until.strftime(FORM), "files": files, "timeline": self.timeline()}
        )
        self.repository.save([*files, f"{HOME}/until.json"], "logs")
        return until

    def keep_up(self):
        """The binary logs; where they begin anew, a whole copy, without which they lead nowhere."""
        if os.path.exists(PLACED):  # a cluster is being restored: its end takes the copy
            return {"waits": "for the end of a restore (playbooks/restore.yml)"}
        self.let_in()
        copied = text_of(f"{HOME}/copied") or read_json(f"{HOME}/note.json", {}).get("timeline")
        if self.timeline() != copied and self.live.alive():
            return {"taken": self.take()["taken"]}
        return {"until": str(self.logs())}

    def take(self):
        self.repository.check()
        self.let_in()
        began = now()
        shape = self.shape()
        if self.mysql:
            words = [
                "mysqldump",
                *self.live.login,
                "--all-databases",
                "--single-transaction",
                "--source-data=2",
            ]
            words += [
                "--routines",
                "--events",
                "--triggers",
                "--hex-blob",
                "--no-tablespaces",
                "--flush-privileges",
            ]
            words += ["--set-gtid-purged=OFF", "--default-character-set=utf8mb4", "--max-allowed-packet=1G"]
            name = "dump.sql"
        else:
            target = f"{HOME}/copy"
            shutil.rmtree(target, ignore_errors=True)
            words = [
                "mariadb-backup",
                *self.live.login,
                "--backup",
                "--stream=mbstream",
                f"--target-dir={target}",
            ]
            name = "copy.mbstream"
        data = self.repository.save_stream(words, name, "copy")
        try:
            log, position, checksums = self.live.snapshot()
            taken = now()
            self.logs()
        except Trouble:
            self.repository.call("forget", data)  # without its note it must not count as the day's copy
            raise
        note = {
            "data": data,
            "name": name,
            "began": began.strftime(FORM),
            "taken": taken.strftime(FORM),
            "timeline": self.timeline(),
            "shape": shape,
            "bytes": folder_bytes(self.config["datadir"]),
            "checked": {
                "log": log,
                "position": position,
                "head": head(os.path.join(os.path.dirname(shape["log_bin_basename"]), log), position),
                "checksums": checksums,
            },
        }
        write_json(f"{HOME}/note.json", note)
        self.repository.save([f"{HOME}/note.json"], "note")
        write_text(f"{HOME}/copied", note["timeline"])
        with contextlib.suppress(FileNotFoundError):
            os.unlink(PLACED)
        self.repository.forget()
        return note

    def fetch_logs(self, note, until, folder):
        """The binary logs of the note's history from the copy on that reach UNTIL; their paths, in order."""
        for entry in self.repository.snapshots("logs"):
            if entry["time"][:19].replace("T", " ") < until:
                continue
            reach = json.loads(self.repository.ask("dump", "--no-lock", entry["id"], f"{HOME}/until.json"))
            if reach["timeline"] == note["timeline"] and reach["until"] >= until:
                self.repository.ask("restore", entry["id"], f"--target={folder}")
                files = [folder + path for path in reach["files"]]
                self.same_log(note, files)
                return files
        raise Trouble(
            f"restore_to={until}: no binary logs of that history reach it; mend: an earlier time "
            "(db-backup list says what there is)"
        )

    @staticmethod
    def same_log(note, files):
        """The name of a binary log says little: a server that begins anew gives the same ones again."""
        checked = note["checked"]
        known = checked.get("head")  # copies of releases before this one have none
        found = next((path for path in files if os.path.basename(path) == checked["log"]), None)
        if known and found and head(found, checked["position"]) != known:
            raise Trouble(
                f"{checked['log']} is not the one that the copy of {note['taken']} was taken with, and leads "
                "nowhere from it; mend: restore to a time before, or from a later copy (db-backup list)"
            )

    def load(self, note, folder):
        """The copy becomes a data directory; returns where the binary log goes on: (file, position)."""
        account = pwd.getpwnam("mysql")
        os.makedirs(folder, mode=0o700)
        os.chown(folder, account.pw_uid, account.pw_gid)
        give = [*self.repository.words, "dump", "--no-lock", note["data"], "/" + note["name"]]
        if not self.mysql:
            pipe(give, ["mbstream", "-x", f"--directory={folder}"], self.repository.environment)
            done = run(["mariadb-backup", "--prepare", f"--target-dir={folder}", "--use-memory=64M"])
            if done.returncode != 0:
                raise Trouble(f"mariadb-backup --prepare: {last_line(done.stderr)}")
            for name in ("mariadb_backup_binlog_info", "xtrabackup_binlog_info"):
                if os.path.exists(f"{folder}/{name}"):
                    with open(f"{folder}/{name}", encoding="utf-8") as file:
                        log, position = file.read().split()[:2]
            run(["chown", "-R", "mysql:mysql", folder])
            return log, int(position)
        position = self.dump_position(give)
        with Scratch(self.config, folder, note["shape"]) as server:
            pipe(
                give,
                [server.client, *server.login, "--binary-mode", "--max-allowed-packet=1G"],
                self.repository.environment,
            )
        return position

    def dump_position(self, give):
        """From the top of the dump: ... SOURCE_LOG_FILE='...', SOURCE_LOG_POS=...;"""
        with subprocess.Popen(  # noqa: S603
            give, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=self.repository.environment
        ) as reader:
            head = reader.stdout.read(65536).decode("utf-8", "replace")
            reader.kill()
        found = re.search(r"_LOG_FILE='([^']+)', \w+_LOG_POS=(\d+)", head)
        if not found:
            raise Trouble(
                "the dump names no position in the binary log; mend: take a new one (db-backup take)"
            )
        return found[1], int(found[2])

    def replay(self, server, files, start, stop):
        log, position = start
        names = [os.path.basename(path) for path in files]
        if log not in names:
            raise Trouble(f"{log} is not among the binary logs kept with this copy; mend: keep them longer")
        files = files[names.index(log) :]
        words = [
            "mysqlbinlog" if self.mysql else "mariadb-binlog",
            "--no-defaults",
            *(["--skip-gtids"] if self.mysql else []),  # the scratch server keeps none
            f"--start-position={position}",
        ]
        if "position" in stop:
            files = [path for path in files if os.path.basename(path) <= stop["log"]]
            words.append(f"--stop-position={stop['position']}")
            if (log, position) == (stop["log"], stop["position"]):
                return
        elif stop:
            words.append(f"--stop-datetime={stop['time']}")
        take = [server.client, *server.login, "--binary-mode", "--max-allowed-packet=1G"]
        pipe([*words, *files], take, {**os.environ, "TZ": "UTC"})

    def prove(self):
        began = time.monotonic()
        self.repository.check()
        notes = self.notes()
        if not notes:
            raise Trouble("there is no backup yet; mend: systemctl start db-backup")
        note = notes[-1]
        folder, logs = f"{HOME}/scratch", f"{HOME}/scratch-logs"
        room(HOME, note["bytes"] * 2)
        proof = read_json(f"{HOME}/proof.json", {})
        try:
            for path in (folder, logs):
                shutil.rmtree(path, ignore_errors=True)
            start = self.load(note, folder)
            files = self.fetch_logs(note, note["taken"], logs)
            with Scratch(self.config, folder, note["shape"]) as server:
                self.replay(server, files, start, note["checked"])
                found = server.checksums(server.tables())
            wanted = note["checked"]["checksums"]
            wrong = sorted(name for name in wanted if found.get(name) != wanted[name])
            if wrong:
                raise Trouble(
                    f"the backup of {note['taken']} is not what was there: {', '.join(wrong[:5])} differ"
                )
        except Trouble as trouble:
            write_json(
                f"{HOME}/proof.json", {**proof, "failed": now().strftime(FORM), "why": str(trouble)}, 0o644
            )
            raise
        finally:
            for path in (folder, logs):
                shutil.rmtree(path, ignore_errors=True)
        proof = {
            "proven": now().strftime(FORM),
            "taken": note["taken"],
            "tables": len(wanted),
            "seconds": round(time.monotonic() - began, 1),
        }
        write_json(f"{HOME}/proof.json", proof, 0o644)
        return proof

    def chosen(self, to):
        notes = self.notes()
        if not notes:
            raise Trouble("there is no backup of this host in the repository; mend: backup_repository")
        earlier = [note for note in notes if note["taken"] <= to]
        if not earlier:
            raise Trouble(
                f"restore_to={to} is before the first backup ({notes[0]['taken']} UTC); nothing was changed; "
                f"mend: a time from {notes[0]['taken']} on"
            )
        return earlier[-1]

    def restore(self, to, overwrite, check, prepare=False):
        if to:
            try:
                to = when(to).strftime(FORM)
            except ValueError:
                raise Trouble(
                    f"restore_to={to} is no time; nothing was changed; mend: YYYY-MM-DD HH:MM:SS, in UTC"
                ) from None
            if when(to) > now():
                raise Trouble(
                    f"restore_to={to} is in the future (it is {now()} UTC); nothing was changed; "
                    "mend: an earlier time; times are UTC"
                )
        placed = self.config["cluster"] and read_json(PLACED, None)
        if placed:  # a run was cut off before the cluster began with it
            return {"resumed": True, **placed}
        datadir = self.config["datadir"]
        self.repository.check()
        note = self.chosen(to or now().strftime(FORM))
        there = os.path.isdir(datadir) and os.listdir(datadir)
        if there and not overwrite:
            raise Trouble(
                f"{datadir} holds a database; nothing was changed; mend: -e restore_overwrite=true puts the "
                "restored one in its place (the old one is kept beside it)"
            )
        if os.path.ismount(datadir):
            raise Trouble(
                f"{datadir} is a mount point and cannot be put aside; mend: restore by hand (docs/backup.md)"
            )
        room(os.path.dirname(datadir), note["bytes"] * 2)
        if check:
            return {"would": to or "the end of the binary logs", "from": note["taken"]}
        if self.config["cluster"] and not prepare:
            raise Trouble(
                "this is a node of a cluster, whose other nodes would keep the old data; nothing was "
                "changed; mend: playbooks/restore.yml"
            )
        self.let_in()
        until = self.logs()
        stop = {"time": to} if to else {}
        to = to or until.strftime(FORM)
        stamp = now().strftime("%Y%m%d%H%M%S")
        folder, logs, old = f"{datadir}.restoring", f"{HOME}/restore-logs", f"{datadir}.before-{stamp}"
        for path in (folder, logs):
            shutil.rmtree(path, ignore_errors=True)
        try:
            start = self.load(note, folder)
            files = self.fetch_logs(note, to, logs)
            with Scratch(self.config, folder, note["shape"]) as server:
                self.replay(server, files, start, stop)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            shutil.rmtree(logs, ignore_errors=True)
        done = {"restored": to, "from": note["taken"], "kept": old}
        if prepare:
            write_json(PREPARED, done)
            return done
        self.swap(datadir, folder, old)
        os.unlink(f"{HOME}/timeline")
        self.take()
        return done

    def place(self):
        """What `restore --prepare` made takes the place of the data, and serves: this node alone. It is not
        placed twice: the next copy that is taken ends that.
        """
        placed = read_json(PLACED, None)
        if placed:
            return placed
        done = read_json(PREPARED, None)
        datadir = self.config["datadir"]
        folder = f"{datadir}.restoring"
        if done is None or not os.path.isdir(folder):
            raise Trouble("nothing is prepared; nothing was changed; mend: playbooks/restore.yml")
        self.swap(datadir, folder, done["kept"])
        os.rename(PREPARED, PLACED)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{HOME}/timeline")
        return done

    def swap(self, datadir, folder, old):
        unit = self.config["unit"]
        run(["systemctl", "stop", unit])
        os.rename(datadir, old)
        os.rename(folder, datadir)
        if self.start(unit):
            return
        run(["systemctl", "stop", unit])
        failed = f"{datadir}.failed"
        shutil.rmtree(failed, ignore_errors=True)
        os.rename(datadir, failed)
        os.rename(old, datadir)
        back = "the old data serve again" if self.start(unit) else "AND THE OLD DATA DO NOT START EITHER"
        raise Trouble(
            f"the server does not start on the restored data (kept in {failed}); {back}; see its error log"
        )

    def start(self, unit):
        run(["systemctl", "reset-failed", unit])
        # A node of Galera would look for the others, which are stopped.
        galera = self.config["cluster"] and not self.mysql
        if run(["galera_new_cluster"] if galera else ["systemctl", "start", unit]).returncode != 0:
            return False
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if Server(self.config, self.config["socket"], "root").alive():
                return True
            time.sleep(0.2)
        return False


def head(path, position):
    """By which a binary log up to a position is known, without the flag that it is being written."""
    with open(path, "rb") as file:
        text = file.read(min(position, 1 << 20))
    return hashlib.sha256(text[:21] + text[23:]).hexdigest()


def folder_bytes(folder):
    return sum(
        os.lstat(os.path.join(place, name)).st_blocks * 512
        for place, _, names in os.walk(folder)
        for name in names
    )


def room(folder, need):
    free = shutil.disk_usage(folder).free
    if free < need:
        raise Trouble(
            f"{folder}: {free >> 20} MiB are free, a restore may need {need >> 20} MiB; nothing was changed; "
            "mend: make room"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("setup", "take", "logs", "prove", "list", "account", "place"):
        verbs.add_parser(verb)
    restore = verbs.add_parser("restore")
    restore.add_argument("--to", default="")
    restore.add_argument("--overwrite", action="store_true")
    restore.add_argument("--check", action="store_true")
    restore.add_argument("--prepare", action="store_true")
    given = parser.parse_args()
    os.umask(0o077)
    if given.verb == "account":
        print(ACCOUNT["mysql"], end="")
        return 0
    try:
        with open(LOCK, "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            backup = Backup()
            if given.verb == "restore":
                said = backup.restore(given.to, given.overwrite, given.check, given.prepare)
            elif given.verb == "list":
                said = [{key: note[key] for key in ("taken", "timeline", "bytes")} for note in backup.notes()]
            elif given.verb == "logs":
                said = backup.keep_up()
            elif given.verb == "take":
                said = {"taken": backup.take()["taken"]}
            else:
                said = getattr(backup, given.verb)()
        print(json.dumps(said))
    except Trouble as trouble:
        print(f"{sockets.gethostname()}: {trouble}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
