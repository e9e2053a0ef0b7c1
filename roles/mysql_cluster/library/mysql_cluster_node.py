#!/usr/bin/python
"""One node of a Galera cluster: what it is, and made what it must be."""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mysql_role import Client, SqlError, read_text, run, unit_state, write_text

DOCUMENTATION = """
module: mysql_cluster_node
short_description: A node of a Galera cluster, looked at or made so
description:
  - Files are compared first; the server restarts only for what needs it, and only while every other
    node is in the cluster; whoever runs this on several nodes runs it on one after the other.
options:
  step: {description: Look or apply., type: str, required: true, choices: [look, apply]}
  files: {description: Files and what they restart., type: list, elements: dict}
  bootstrap: {description: Does the cluster begin here?, type: bool, default: false}
  nodes: {description: How many nodes there are., type: int, default: 0}
  restart_for: {description: What else waits for a restart., type: list, elements: str}
  join_timeout: {description: Seconds to join., type: int, default: 900}
author: [the project]
"""
EXAMPLES = "# see roles/mysql_cluster/tasks/main.yml\n"
RETURN = """
state: {description: what the node is, type: dict, returned: look}
actions: {description: what was done, type: list, returned: apply}
"""

UNIT, AGENT = "mariadb.service", "mysql-cluster-agent.service"
SOCKET, GRASTATE = "/run/mysqld/mysqld.sock", "/var/lib/mysql/grastate.dat"
NOBODY = "00000000-0000-0000-0000-000000000000"
TABLES = (
    "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA NOT IN"
    " ('mysql', 'sys', 'information_schema', 'performance_schema')"
)
SST = (
    "CREATE USER IF NOT EXISTS mysql@localhost IDENTIFIED VIA unix_socket",
    "GRANT RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, REPLICA MONITOR ON *.* TO mysql@localhost",
)


def grastate():
    pairs = (line.partition(":")[::2] for line in (read_text(GRASTATE) or "").splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


class Node:
    def __init__(self):
        self.client = Client(socket=SOCKET)

    def status(self):
        """The engine's own words, {} where it is not on or the server does not answer."""
        try:
            return dict(self.client.query("SHOW GLOBAL STATUS LIKE 'wsrep%'")[0])
        except SqlError:
            return {}

    def look(self):
        running = unit_state(UNIT, "ActiveState").get("ActiveState") == "active"
        status, tables = self.status() if running else {}, None
        if running:
            try:
                tables = int(self.client.query(TABLES)[0][0][0])
            except SqlError:
                tables = None  # a node without a majority answers nothing
        been = grastate().get("uuid", NOBODY)
        return {
            "running": running,
            "status": status.get("wsrep_cluster_status", ""),
            "uuid": status.get("wsrep_cluster_state_uuid", ""),
            "state": status.get("wsrep_local_state_comment", ""),
            "size": int(status.get("wsrep_cluster_size", 0) or 0),
            "been": "" if been == NOBODY else been,
            "seqno": grastate().get("seqno", ""),
            "tables": tables,
        }

    def synced(self):
        status = self.status()
        return (
            status.get("wsrep_cluster_status") == "Primary"
            and status.get("wsrep_local_state_comment") == "Synced"
            and status.get("wsrep_ready") == "ON"
        )


class Job:
    def __init__(self, module):
        self.module, self.wanted, self.node, self.actions = module, module.params, Node(), []

    def fail(self, text):
        self.module.fail_json(msg=text, actions=self.actions)

    def systemctl(self, *words):
        done = run(["systemctl", *words], timeout=self.wanted["join_timeout"] + 60)
        if done.returncode != 0:
            last = run(["journalctl", "-u", UNIT, "-n", "15", "--no-pager", "-o", "cat"]).stdout
            self.fail(f"systemctl {' '.join(words)}: {done.stderr.strip()}\n{last}")

    def wait(self):
        until = time.monotonic() + self.wanted["join_timeout"]
        while not self.node.synced():
            if time.monotonic() > until:
                self.fail(
                    f"not in the cluster within {self.wanted['join_timeout']} s "
                    f"({self.node.status().get('wsrep_local_state_comment', 'no answer')}); "
                    f"mend: journalctl -u {UNIT}"
                )
            time.sleep(0.2)

    def work(self):
        differs = [entry for entry in self.wanted["files"] if read_text(entry["path"]) != entry["content"]]
        restarts = {entry.get("restarts") for entry in differs}
        before = self.node.look()
        member = before["status"] == "Primary" and not self.wanted["bootstrap"]
        reasons = list(self.wanted["restart_for"] or [])
        reasons += [entry["path"] for entry in differs if entry.get("restarts") == "server"]
        agent = unit_state(AGENT, "ActiveState", "UnitFileState")
        agent_up = agent.get("ActiveState") == "active" and agent.get("UnitFileState") == "enabled"
        changed = bool(differs or reasons or not member or not agent_up)
        if self.module.check_mode or not changed:
            self.module.exit_json(changed=changed, actions=[f"restart for {text}" for text in reasons])
        if member and reasons and (before["size"] != self.wanted["nodes"] or before["state"] != "Synced"):
            self.fail(
                f"a restart is needed for {', '.join(reasons)}, and only {before['size']} of "
                f"{self.wanted['nodes']} nodes are in the cluster ({before['state']}); nothing was "
                "changed here; mend: bring the others back"
            )
        for entry in differs:
            write_text(entry["path"], entry["content"], int(entry.get("mode") or "0644", 8))
            self.actions.append(f"file {entry['path']}")
        if differs:
            self.systemctl("daemon-reload")
        if not agent_up or "agent" in restarts:
            self.systemctl("enable", AGENT)
            self.systemctl("restart", AGENT)
            self.actions.append("agent started")
        if self.wanted["bootstrap"]:
            self.node.client.query(*SST)
            self.systemctl("stop", UNIT)
            self.actions.append("the cluster begins here")
            done = run(["galera_new_cluster"], timeout=self.wanted["join_timeout"])
            if done.returncode != 0:
                self.fail(f"galera_new_cluster: {done.stderr.strip()}")
        elif not member or reasons:
            self.actions.append(f"restarted for {', '.join(reasons)}" if member else "joins")
            self.systemctl("restart", UNIT)
        self.wait()
        self.module.exit_json(changed=True, actions=self.actions)


def main():
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "required": True, "choices": ["look", "apply"]},
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
        },
        supports_check_mode=True,
    )
    if module.params["step"] == "look":
        module.exit_json(changed=False, state=Node().look())
    try:
        Job(module).work()
    except (SqlError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
