#!/usr/bin/python
"""One node of a cluster: what it is, and made what it must be. The engines differ in their classes alone."""

import contextlib
import glob
import re
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mysql_role import Client, SqlError, quoted, read_text, run, unit_state, write_text

DOCUMENTATION = """
module: mysql_cluster_node
short_description: A node of a cluster, looked at or made so
description:
  - Files are compared first; the server restarts only for what needs it, and only while every other
    node is in the cluster; whoever runs this on several nodes runs it on one after the other.
options:
  step: {description: Look or apply., type: str, required: true, choices: [look, apply]}
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
state: {description: what the node is, type: dict, returned: look}
actions: {description: what was done, type: list, returned: apply}
"""

AGENT = "mysql-cluster-agent.service"
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
        return {
            "running": running,
            "tables": int(tables[0][0]) if tables else None,  # a node without a majority answers nothing
            **self.standing(running),
        }

    def ready(self):
        now = self.standing(True)
        return now["status"] == "Primary" and now["state"] == self.READY


class Galera(Engine):
    UNIT, READY = "mariadb.service", "Synced"
    NOBODY = "00000000-0000-0000-0000-000000000000"
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

    def begin(self):
        self.client.query(*self.SST)
        self.systemctl("stop", self.UNIT)
        done = run(["galera_new_cluster"], timeout=self.wanted["join_timeout"])
        if done.returncode != 0:
            raise Failure(f"galera_new_cluster: {done.stderr.strip()}")

    def join(self, _before):
        self.systemctl("restart", self.UNIT)

    def restart(self):
        self.systemctl("restart", self.UNIT)

    def wait_on(self):
        pass


class GroupReplication(Engine):
    UNIT, READY = "mysql.service", "ONLINE"
    CONFIGURATION = "/etc/mysql/mysql.conf.d/zz-cluster.cnf"
    CHANNEL = "group_replication_recovery"

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

    def credentials(self):
        self.query(
            f"CHANGE REPLICATION SOURCE TO SOURCE_USER = 'cluster', SOURCE_PASSWORD = "
            f"{quoted(self.wanted['password'])} FOR CHANNEL '{self.CHANNEL}'"
        )

    def begin(self):
        self.systemctl("restart", self.UNIT)
        self.bootstrap()

    def bootstrap(self):
        self.credentials()
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
            self.query("STOP GROUP_REPLICATION")
            self.query("START GROUP_REPLICATION")

    def restart(self):
        self.systemctl("restart", self.UNIT)
        self.start()

    def wait_on(self):
        """A server that was cloned restarts, and is not in the group until somebody starts that again."""
        now = self.standing(True)
        if now["state"] == "OFFLINE" and now["gtid"]:
            with contextlib.suppress(Failure):
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
            self.engine.wait_on()
            time.sleep(0.2)

    def work(self):
        differs = [entry for entry in self.wanted["files"] if read_text(entry["path"]) != entry["content"]]
        restarts = {entry.get("restarts") for entry in differs}
        before = self.engine.look()
        member = before["status"] == "Primary" and not self.wanted["bootstrap"]
        reasons = list(self.wanted["restart_for"] or [])
        reasons += [entry["path"] for entry in differs if entry.get("restarts") == "server"]
        agent = unit_state(AGENT, "ActiveState", "UnitFileState")
        agent_up = agent.get("ActiveState") == "active" and agent.get("UnitFileState") == "enabled"
        changed = bool(differs or reasons or not member or not agent_up)
        if self.module.check_mode or not changed:
            self.module.exit_json(changed=changed, actions=[f"restart for {text}" for text in reasons])
        whole = before["size"] == self.wanted["nodes"] and before["state"] == self.engine.READY
        if member and reasons and not whole:
            self.fail(
                f"a restart is needed for {', '.join(reasons)}, and only {before['size']} of "
                f"{self.wanted['nodes']} nodes are in the cluster ({before['state']}); nothing was "
                "changed here; mend: bring the others back"
            )
        for entry in differs:
            write_text(entry["path"], entry["content"], int(entry.get("mode") or "0644", 8))
            self.actions.append(f"file {entry['path']}")
        if differs:
            self.engine.systemctl("daemon-reload")
        if not agent_up or "agent" in restarts:
            self.engine.systemctl("enable", AGENT)
            self.engine.systemctl("restart", AGENT)
            self.actions.append("agent started")
        if self.wanted["bootstrap"]:
            self.actions.append("the cluster begins here")
            self.engine.begin()
        elif not member:
            self.actions.append("joins")
            self.engine.join(before)
        elif reasons:
            self.actions.append(f"restarted for {', '.join(reasons)}")
            self.engine.restart()
        self.wait()
        self.module.exit_json(changed=True, actions=self.actions)


def main():
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "required": True, "choices": ["look", "apply"]},
            "kind": {"type": "str", "required": True, "choices": list(ENGINES)},
            "files": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "required": True},
                    "mode": {"type": "str"},
                    "restarts": {"type": "str", "choices": ["server", "agent"]},
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
        if module.params["step"] == "look":
            module.exit_json(changed=False, state=job.engine.look())
        job.work()
    except (Failure, SqlError, OSError) as error:
        job.fail(str(error))


if __name__ == "__main__":
    main()
