#!/usr/bin/python
"""Who may reach the server's ports at all: a table of nftables of our own, loaded by a unit of its own."""

import os
import subprocess
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.mysql_role import FIREWALL, read_text, run, unit_state, write_text

DOCUMENTATION = """
module: mysql_firewall
short_description: A packet filter before one database server
description:
  - Only our own table is touched; other tables stay as they are. The rules are judged by nft before they
    are placed, and load as one transaction.
options:
  rules: {description: The table as nft reads it; empty takes it away., type: str, required: true}
author: [the project]
"""
EXAMPLES = "# see roles/mysql/tasks/firewall.yml\n"
RETURN = "actions: {description: what was done, type: list, returned: always}\n"

NFT, UNIT = "/usr/sbin/nft", "mysql-firewall.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
TEXT = f"""# Ansible managed: roles/mysql
[Unit]
Description=Who may reach the database server
DefaultDependencies=no
After=local-fs.target nftables.service
Before=network-pre.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={NFT} -f {FIREWALL}
ExecStop=-{NFT} delete table inet mysql_role

[Install]
WantedBy=multi-user.target
"""


class Firewall:
    def __init__(self, module):
        self.module, self.rules, self.actions = module, module.params["rules"], []

    def do(self, what, *words):
        """One step; in check mode its announcement."""
        self.actions.append(what)
        if self.module.check_mode or not words:
            return
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = run(list(words), timeout=900, env=env)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-600:]
            self.module.fail_json(
                msg=f"mysql_firewall: `{' '.join(words)}` failed: {said}", actions=self.actions
            )

    def judge(self):
        if self.module.check_mode and not os.path.exists(NFT):
            return
        with tempfile.NamedTemporaryFile("w", suffix=".nft") as file:
            file.write(self.rules)
            file.flush()
            done = run([NFT, "--check", "--file", file.name])
        if done.returncode:
            self.module.fail_json(
                msg=f"mysql_firewall: nft rejects the rules: {done.stderr.strip()[-600:]}; mend: correct "
                "mysql_firewall_networks, or set mysql_firewall: false where this kernel has no nftables"
            )

    def loaded(self):
        """The table that is loaded, without the counts."""
        done = run([NFT, "--stateless", "list", "table", "inet", "mysql_role"])
        return done.stdout if done.returncode == 0 else ""

    def on(self):
        if not os.path.exists(NFT):
            apt = ["apt-get", "-q", "-y", "--no-remove", "-o", "DPkg::Lock::Timeout=300", "install"]
            self.do("package nftables", *apt, "--no-install-recommends", "nftables")
        differs = read_text(FIREWALL) != self.rules
        if differs:
            self.judge()
        for path, text in ((FIREWALL, self.rules), (UNIT_FILE, TEXT)):
            if read_text(path) != text:
                self.do(f"file {path}")
                if not self.module.check_mode:
                    write_text(path, text)
        state = unit_state(UNIT, "ActiveState", "UnitFileState", "NeedDaemonReload")
        if f"file {UNIT_FILE}" in self.actions or state.get("NeedDaemonReload") == "yes":
            self.do("units read again", "systemctl", "daemon-reload")
        if state.get("UnitFileState") != "enabled":
            self.do("enabled", "systemctl", "enable", "--quiet", UNIT)
        if differs or state.get("ActiveState") != "active" or not self.loaded():
            self.do("rules loaded", "systemctl", "restart", UNIT)

    def off(self):
        for path in (FIREWALL, UNIT_FILE):
            if os.path.exists(path):
                if path == FIREWALL and os.path.exists(UNIT_FILE):
                    self.do("firewall taken away", "systemctl", "disable", "--quiet", "--now", UNIT)
                self.do(f"file {path} removed")
                if not self.module.check_mode:
                    os.unlink(path)
        if self.actions:
            self.do("units read again", "systemctl", "daemon-reload")


def main():
    module = AnsibleModule(
        argument_spec={"rules": {"type": "str", "required": True}}, supports_check_mode=True
    )
    firewall = Firewall(module)
    try:
        firewall.on() if firewall.rules else firewall.off()
    except (OSError, subprocess.SubprocessError) as error:
        module.fail_json(msg=f"mysql_firewall: {error}", actions=firewall.actions)
    module.exit_json(changed=bool(firewall.actions), actions=firewall.actions)


if __name__ == "__main__":
    main()
