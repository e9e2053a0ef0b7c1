#!/usr/bin/python
"""One node of a cluster: what it is, and made what it must be. The engines differ in their classes alone."""

import glob
import os
import re
import time
import uuid

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mysql_role import Client, SqlError, quoted, read_text, run, unit_state, write_text

DOCUMENTATION = """
module: mysql_cluster_node
short_description: A node of a cluster, looked at or made so
description:
  - Files are compared first; the server restarts only for what needs it, and only while every other
    node is in the cluster; whoever runs this on several nodes runs it on one after the other.
options:
  step:
    description:
      - look, what the node is; apply, make it so; gate, are all nodes in the cluster; leave it.
      - For a cluster of which no node serves - examine, how far the node came; recover, the cluster begins
        again on this node; rejoin, this node into that.
      - For a cluster whose data are restored - stop, this node; restored, the cluster begins with the data
        that were put here; anew, this node's data are put aside, and it is as on a bare host.
    type: str
    required: true
    choices: [look, apply, gate, leave, examine, recover, rejoin, stop, restored, anew]
  kind: {description: The engine., type: str, required: true, choices: [galera, group_replication]}
  files: {description: Files and what they restart., type: list, elements: dict}
  bootstrap: {description: Does the cluster begin here?, type: bool, default: false}
  nodes: {description: How many nodes there are., type: int, default: 0}
  restart_for: {description: What else waits for a restart., type: list, elements: str}
  join_timeout: {description: Seconds to join., type: int, default: 900}
  password: {description: By which nodes of Group Replication reach each other., type: str}
author: [the project]
"""
EXAMPLES = "# see roles/mysql_cluster/tasks/main.yml\n"
RETURN = """
state: {description: what the node is, type: dict, returned: look and examine}
actions: {description: what was done, type: list, returned: apply}
"""

AGENT, PORT = "mysql-cluster-agent.service", "mysql-cluster-agent.socket"
BUSY = r"ERROR (3663|3092|3093)\b"  # its agent lets it back in at this moment
PATIENCE = 30  # seconds for a node that waits for the others to find them
SOCKET, DATADIR = "/run/mysqld/mysqld.sock", "/var/lib/mysql"
TABLES = (
    "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA NOT IN"
    " ('mysql', 'sys', 'information_schema', 'performance_schema')"
)


class Failure(Exception):
    """In words for whoever runs this."""


class Engine:
    """A node as its engine sees it.

    look() has, whatever the engine: status ("Primary" for a node of the part that has the majority), state
    (the engine's word, READY where nothing is missing), size (nodes that are in), uuid (of the cluster it is
    in), been (of the cluster it was in, "" for none), and what tells how far it is.

    examine(), where none serves: serves, uuid (of the cluster whose data it has, "" for none), position (""
    where it is not known; planner.cluster compares them), said (in words). recover(): the cluster begins
    again here. rejoin(): into that. Both find the node running or not.
    """

    def __init__(self, wanted):
        self.wanted, self.client = wanted, Client(socket=SOCKET, timeout=wanted["join_timeout"] + 60)
        self.actions = []

    def rows(self, statement):
        """[] where the server does not answer."""
        try:
            return self.client.query(statement)[0]
        except SqlError:
            return []

    def systemctl(self, *words):
        done = run(["systemctl", *words], timeout=self.wanted["join_timeout"] + 60)
        if done.returncode != 0:
            last = run(["journalctl", "-u", self.UNIT, "-n", "15", "--no-pager", "-o", "cat"]).stdout
            raise Failure(f"systemctl {' '.join(words)}: {done.stderr.strip()}\n{last}")

    def running(self):
        return unit_state(self.UNIT, "ActiveState").get("ActiveState") == "active"

    def look(self):
        running = self.running()
        tables = self.rows(TABLES) if running else []
        now = self.standing(running)
        return {
            "running": running,
            "tables": int(tables[0][0]) if tables else None,  # a node without a majority answers nothing
            **now,
            "ready": self.is_ready(now),
        }

    def process(self):
        return unit_state(self.UNIT, "MainPID").get("MainPID", "0")

    def ready(self):
        return self.is_ready(self.standing(True))

    def is_ready(self, now):
        return now["status"] == "Primary" and now["state"] == self.READY

    def stale(self):
        """Another password than the one that is wanted is kept here."""
        return False

    def live(self):
        """What follows from the list of the others, and is no reason for a restart."""

    def left(self):
        """What else would make its data count as the cluster's, when it comes back with writes of its own."""

    def put_aside(self):
        """A server as it is on a bare host; where its data are from now on."""
        self.systemctl("stop", self.UNIT)
        aside = f"{DATADIR}.before-{time.strftime('%Y%m%d%H%M%S', time.gmtime())}"
        owner = os.stat(DATADIR)
        os.rename(DATADIR, aside)
        os.mkdir(DATADIR, owner.st_mode & 0o777)
        os.chown(DATADIR, owner.st_uid, owner.st_gid)
        done = run(self.INSTALL, timeout=600)
        if done.returncode != 0:
            raise Failure(f"{self.INSTALL[0]}: {done.stderr.strip()[-500:]}")
        self.systemctl("start", self.UNIT)
        return aside


class Galera(Engine):
    UNIT, READY, OTHERS = "mariadb.service", "Synced", "wsrep_cluster_address"
    CONFIGURATION = "/etc/mysql/mariadb.conf.d/zz-cluster.cnf"
    NOBODY = "00000000-0000-0000-0000-000000000000"
    INSTALL = (
        *("mariadb-install-db", "--user=mysql", "--skip-test-db", "--disable-log-bin", "--wsrep-on=0"),
        "--auth-root-authentication-method=socket",
    )
    SST = (
        "CREATE USER IF NOT EXISTS mysql@localhost IDENTIFIED VIA unix_socket",
        "GRANT RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, REPLICA MONITOR ON *.* TO mysql@localhost",
    )

    @staticmethod
    def grastate():
        lines = (read_text(f"{DATADIR}/grastate.dat") or "").splitlines()
        pairs = (line.partition(":")[::2] for line in lines if ":" in line)
        return {key.strip(): value.strip() for key, value in pairs}

    def standing(self, running):
        status = dict(self.rows("SHOW GLOBAL STATUS LIKE 'wsrep%'")) if running else {}
        been = self.grastate().get("uuid", self.NOBODY)
        return {
            "status": status.get("wsrep_cluster_status", ""),
            "uuid": status.get("wsrep_cluster_state_uuid", ""),
            "state": status.get("wsrep_local_state_comment", "") if status.get("wsrep_ready") == "ON" else "",
            "size": int(status.get("wsrep_cluster_size", 0) or 0),
            "been": "" if been == self.NOBODY else been,
            "seqno": self.grastate().get("seqno", ""),
        }

    def left(self):
        for name in ("grastate.dat", "gvwstate.dat"):
            if os.path.exists(f"{DATADIR}/{name}"):
                os.unlink(f"{DATADIR}/{name}")

    def begin(self):
        self.client.query(*self.SST)
        self.systemctl("stop", self.UNIT)
        self.new_cluster()

    def new_cluster(self):
        done = run(["galera_new_cluster"], timeout=self.wanted["join_timeout"])
        if done.returncode != 0:
            raise Failure(f"galera_new_cluster: {done.stderr.strip()}")

    @classmethod
    def started_at(cls, text):
        """(uuid, seqno) of --wsrep_start_position=UUID:SEQNO"""
        found = re.search(r"--wsrep[_-]start[_-]position=([0-9a-f-]+):(-?\d+)", text or "")
        uuid, seqno = found.groups() if found else ("", "")
        return ("", "") if uuid == cls.NOBODY or seqno.startswith("-") else (uuid, seqno)

    def examine(self):
        status = dict(self.rows("SHOW GLOBAL STATUS LIKE 'wsrep%'"))
        grastate, pid = self.grastate(), self.process()
        uuid, seqno = grastate.get("uuid", self.NOBODY), grastate.get("seqno", "-1")
        serves, how = False, "is stopped"
        if status.get("wsrep_cluster_status", "Disconnected") != "Disconnected":
            serves = status["wsrep_cluster_status"] == "Primary" and status.get("wsrep_ready") == "ON"
            uuid, seqno = status["wsrep_local_state_uuid"], status["wsrep_last_committed"]
            how = f"runs, {status['wsrep_cluster_status']}, {status['wsrep_local_state_comment']}"
        elif pid != "0":  # it waits for the others, and has not gone beyond where it began
            how = "waits for the others"
            uuid, seqno = self.started_at(read_text(f"/proc/{pid}/cmdline"))
        elif uuid != self.NOBODY and seqno.startswith("-"):  # it did not end in peace: its tables tell
            done = run(["/usr/bin/galera_recovery"], timeout=600)
            seqno = self.started_at(done.stdout)[1]
        uuid, seqno = uuid.replace(self.NOBODY, ""), "" if seqno.startswith("-") else seqno
        data = f"seqno {seqno or 'unknown'}" if uuid else "without data of a cluster"
        return {"serves": serves, "uuid": uuid, "position": seqno, "said": f"{how}, {data}"}

    def recover(self):
        status = self.standing(True)["status"]
        if status == "non-Primary":
            self.client.query("SET GLOBAL wsrep_provider_pc_bootstrap = ON")
        elif status != "Primary":
            self.systemctl("stop", self.UNIT)
            path = f"{DATADIR}/grastate.dat"
            owner = os.stat(path)
            text = re.sub(r"(?m)^safe_to_bootstrap:.*$", "safe_to_bootstrap: 1", read_text(path))
            write_text(path, text, 0o660, (owner.st_uid, owner.st_gid))
            self.new_cluster()

    def rejoin(self):
        until = time.monotonic() + PATIENCE
        while self.process() != "0" and not self.ready() and time.monotonic() < until:
            time.sleep(0.5)  # it waited for the others
        if not self.ready():
            self.systemctl("restart", self.UNIT)

    def restored(self):
        """It began with them when it was started."""

    def join(self, _before):
        self.systemctl("restart", self.UNIT)

    def restart(self):
        self.systemctl("restart", self.UNIT)


class GroupReplication(Engine):
    UNIT, READY = "mysql.service", "ONLINE"
    WEIGHT = "loose_group_replication_member_weight"
    OTHERS = ("loose_group_replication_group_seeds", WEIGHT)
    CONFIGURATION = "/etc/mysql/mysql.conf.d/zz-cluster.cnf"
    CHANNEL = "group_replication_recovery"
    INSTALL = ("mysqld", "--initialize-insecure", "--user=mysql")

    def group(self):
        """The group's name in this node's own file."""
        found = re.search(r"group_replication_group_name = (\S+)", read_text(self.CONFIGURATION) or "")
        return found.group(1) if found else ""

    def standing(self, running):
        own = self.rows("SELECT @@server_uuid, @@gtid_executed") if running else []
        server, executed = own[0] if own else ("", "")
        executed = "".join(executed.split())
        nodes = {
            node: (state, role)
            for node, state, role in self.rows(
                "SELECT MEMBER_ID, MEMBER_STATE, MEMBER_ROLE"
                " FROM performance_schema.replication_group_members"
            )
        }
        view = self.rows(
            "SELECT VIEW_ID FROM performance_schema.replication_group_member_stats"
            " WHERE MEMBER_ID = @@server_uuid"
        )
        state, role = nodes.get(server, ("", ""))
        reached = sum(word != "UNREACHABLE" for word, _ in nodes.values())
        serves = state in ("ONLINE", "RECOVERING") and 2 * reached > len(nodes)
        group = self.group()
        # Of a server that is down its files tell; a data directory that was made anew has none of them.
        was = f"{group}:" in executed if own else bool(glob.glob(f"{DATADIR}/relay-bin-group_replication_*"))
        return {
            "status": "Primary" if serves else "",
            "uuid": group if serves else "",
            # What is begun twice has one name, and two of these.
            "group": view[0][0].partition(":")[0] if serves and view else "",
            "state": state,
            "role": role,
            "size": sum(word == "ONLINE" for word, _ in nodes.values()),
            "been": group if was or serves else "",
            "gtid": executed,
            "seqno": executed,
        }

    def log(self):
        rows = self.rows(
            "SELECT DATA FROM performance_schema.error_log WHERE PRIO = 'Error' ORDER BY LOGGED DESC LIMIT 5"
        )
        return "\n".join(row[0] for row in reversed(rows))

    def query(self, *statements):
        try:
            return self.client.query(*statements)
        except SqlError as error:
            raise Failure(f"{error}\n{self.log()}") from None

    def configured(self):
        """The server has read the file that is there."""
        rows = self.rows(
            "SELECT VARIABLE_VALUE FROM performance_schema.global_variables"
            " WHERE VARIABLE_NAME = 'group_replication_group_name'"
        )
        return bool(rows) and rows[0][0] == self.group()

    def stale(self):
        kept = self.rows(
            "SELECT User_password FROM mysql.slave_master_info"
            " WHERE Channel_name = 'group_replication_recovery'"
        )
        return bool(self.wanted["password"]) and kept != [[self.wanted["password"]]]

    def live(self):
        found = re.search(rf"{self.WEIGHT} = (\d+)", read_text(self.CONFIGURATION) or "")
        self.query(f"SET GLOBAL group_replication_member_weight = {found.group(1)}")

    def credentials(self):
        self.query(
            f"CHANGE REPLICATION SOURCE TO SOURCE_USER = 'cluster', SOURCE_PASSWORD = "
            f"{quoted(self.wanted['password'])} FOR CHANNEL '{self.CHANNEL}'"
        )

    def begin(self):
        self.systemctl("restart", self.UNIT)
        self.credentials()
        self.bootstrap()

    def bootstrap(self):
        self.query("SET GLOBAL group_replication_bootstrap_group = ON")
        try:
            self.query("START GROUP_REPLICATION")
        finally:
            self.query("SET GLOBAL group_replication_bootstrap_group = OFF")

    def join(self, before):
        new = not before["been"]
        if new and before["gtid"]:
            self.query("RESET BINARY LOGS AND GTIDS")  # its own first steps; decided: it has no data
        if not self.configured():
            self.systemctl("restart", self.UNIT)
        self.credentials()
        if new:  # it gets a copy of all data, whatever the others' binary logs hold
            self.query("SET GLOBAL group_replication_clone_threshold = 1")
        self.start()

    def start(self):
        if self.standing(True)["state"] in ("OFFLINE", "ERROR"):
            try:
                self.query("STOP GROUP_REPLICATION", "START GROUP_REPLICATION")
            except Failure as failure:
                if not re.search(BUSY, str(failure)):
                    raise

    def restart(self):
        self.systemctl("restart", self.UNIT)
        self.start()

    def examine(self):
        """A server that is stopped is started, alone and read-only: only then it can be asked."""
        if not self.running():
            run(["systemctl", "start", self.UNIT], timeout=self.wanted["join_timeout"])
        now, group = self.standing(self.running()), self.group()
        # What it has received counts: it is applied before the node serves.
        received = self.rows(
            "SELECT RECEIVED_TRANSACTION_SET FROM performance_schema.replication_connection_status"
            " WHERE CHANNEL_NAME = 'group_replication_applier' AND RECEIVED_TRANSACTION_SET <> ''"
        )
        sets = [now["gtid"], *("".join(row[0].split()) for row in received)]
        position = ",".join(word for word in sets if word)
        own = sorted(set(re.findall(rf"{group}(?::[0-9-]+)+", position))) if group else []
        how = f"runs, {now['state'] or 'OFFLINE'}" if self.running() else "does not start"
        data = f"executed and received {', '.join(own)}" if own else "without data of the group"
        return {
            "serves": now["status"] == "Primary",
            "uuid": group if own or now["been"] else "",
            "position": position,
            "said": f"{how}, {data if self.running() else 'position unknown'}",
        }

    def recover(self):
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.query("STOP GROUP_REPLICATION")
                break
            except Failure as failure:
                if not re.search(BUSY, str(failure)) or time.monotonic() > until:
                    raise
            time.sleep(0.5)
        self.bootstrap()

    def restored(self):
        """No binary log leads to these data, so that whoever joins must get a copy of them. The accounts by
        which nodes reach each other, this one too, may have had another password then.
        """
        password = quoted(self.wanted["password"])
        hosts = self.rows("SELECT Host FROM mysql.user WHERE User = 'cluster'")
        self.query(
            "SET GLOBAL super_read_only = OFF",
            *(f"ALTER USER cluster@{quoted(host)} IDENTIFIED BY {password}" for (host,) in hosts),
            "SET GLOBAL super_read_only = ON",
            "RESET BINARY LOGS AND GTIDS",
            f"SET GLOBAL gtid_purged = '{uuid.uuid4()}:1'",
        )
        self.credentials()
        self.bootstrap()

    def rejoin(self):
        if not self.running():
            self.systemctl("start", self.UNIT)
        self.start()


ENGINES = {"galera": Galera, "group_replication": GroupReplication}


class Job:
    def __init__(self, module):
        self.module, self.wanted = module, module.params
        self.engine, self.actions = ENGINES[module.params["kind"]](module.params), []

    def fail(self, text):
        self.module.fail_json(msg=text, actions=self.actions)

    def wait(self):
        until = time.monotonic() + self.wanted["join_timeout"]
        while not self.engine.ready():
            if time.monotonic() > until:
                self.fail(
                    f"not in the cluster within {self.wanted['join_timeout']} s "
                    f"({self.engine.standing(True)['state'] or 'no answer'}); "
                    f"mend: journalctl -u {self.engine.UNIT}"
                )
            time.sleep(0.2)

    def gate(self):
        """Nothing is done to a node while another one is away."""
        now = self.engine.look()
        if now["size"] != self.wanted["nodes"] or now["state"] != self.engine.READY:
            self.fail(
                f"{now['size']} of {self.wanted['nodes']} nodes are in the cluster, and this one is "
                f"{now['state'] or 'away'}; nothing was changed here; mend: bring the others back first"
            )

    def leave(self):
        """Politely, and for good: nothing is left by which it would join again. Its data stays."""
        self.engine.systemctl("disable", self.engine.UNIT)
        if unit_state(self.engine.UNIT, "ActiveState").get("ActiveState") != "inactive":
            self.engine.systemctl("stop", self.engine.UNIT)
            self.actions.append("left")
        drop_in = f"/etc/systemd/system/{self.engine.UNIT}.d/cluster.conf"
        if os.path.exists(drop_in):
            self.engine.systemctl("disable", "--now", AGENT, PORT)
        for path in (self.engine.CONFIGURATION, drop_in):
            if os.path.exists(path):
                os.unlink(path)
                self.actions.append(f"removed {path}")
        self.engine.left()
        self.engine.systemctl("daemon-reload")

    def lines(self, text):
        """What a server must restart for; what follows from the list of the others is none."""
        return [line for line in (text or "").splitlines() if not line.startswith(self.engine.OTHERS)]

    def work(self):
        differs = [entry for entry in self.wanted["files"] if read_text(entry["path"]) != entry["content"]]
        restarts = {entry.get("restarts") for entry in differs}
        before = self.engine.look()
        member = before["status"] == "Primary" and not self.wanted["bootstrap"]
        stale = member and self.engine.stale()
        reasons = list(self.wanted["restart_for"] or [])
        reasons += [
            entry["path"]
            for entry in differs
            if entry.get("restarts") == "server"
            and self.lines(read_text(entry["path"])) != self.lines(entry["content"])
        ]
        agent = unit_state(AGENT, "ActiveState", "UnitFileState")
        agent_up = agent.get("ActiveState") == "active" and agent.get("UnitFileState") == "enabled"
        changed = bool(differs or reasons or not member or not agent_up or stale)
        if self.module.check_mode or not changed:
            self.module.exit_json(changed=changed, actions=[f"restart for {text}" for text in reasons])
        if member and reasons:
            self.gate()
        for entry in differs:
            write_text(entry["path"], entry["content"], int(entry.get("mode") or "0644", 8))
            self.actions.append(f"file {entry['path']}")
        if differs:
            self.engine.systemctl("daemon-reload")
        if not agent_up or restarts & {"agent", "agent socket"}:
            self.engine.systemctl("enable", AGENT, PORT)
            if "agent socket" in restarts:
                self.engine.systemctl("stop", AGENT, PORT)
            self.engine.systemctl("restart", AGENT)
            self.actions.append("agent started")
        if stale:
            self.actions.append("password set by which the others are reached")
            self.engine.credentials()
        if self.wanted["bootstrap"]:
            self.actions.append("the cluster begins here")
            self.engine.begin()
        elif not member:
            self.actions.append("joins")
            self.engine.join(before)
        elif reasons:
            self.actions.append(f"restarted for {', '.join(reasons)}")
            self.engine.restart()
        elif "server" in restarts:
            self.engine.live()
        self.wait()
        self.module.exit_json(changed=True, actions=self.actions)


def main():
    module = AnsibleModule(
        argument_spec={
            "step": {
                "type": "str",
                "required": True,
                "choices": [
                    *("look", "apply", "gate", "leave", "examine", "recover", "rejoin"),
                    *("stop", "restored", "anew"),
                ],
            },
            "kind": {"type": "str", "required": True, "choices": list(ENGINES)},
            "files": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "required": True},
                    "mode": {"type": "str"},
                    "restarts": {"type": "str", "choices": ["server", "agent", "agent socket"]},
                },
            },
            "bootstrap": {"type": "bool", "default": False},
            "nodes": {"type": "int", "default": 0},
            "restart_for": {"type": "list", "elements": "str"},
            "join_timeout": {"type": "int", "default": 900},
            "password": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    job = Job(module)
    try:
        step = module.params["step"]
        if step in ("look", "examine"):
            module.exit_json(changed=False, state=getattr(job.engine, step)())
        if step == "apply":
            job.work()
        elif step == "gate":
            job.gate()
        elif step == "leave" and not module.check_mode:
            job.leave()
        elif step == "stop" and not module.check_mode:
            job.engine.systemctl("stop", job.engine.UNIT)
            job.actions.append("stopped")
        elif step == "anew" and not module.check_mode:
            job.actions.append(f"its data are in {job.engine.put_aside()}")
        elif not module.check_mode and not job.engine.ready():
            job.actions.append("the cluster begins again here" if step == "recover" else "joins")
            getattr(job.engine, step)()
            job.wait()
        module.exit_json(changed=bool(job.actions), actions=job.actions)
    except (Failure, SqlError, OSError) as error:
        job.fail(str(error))


if __name__ == "__main__":
    main()
