#!/usr/bin/python
"""Backups of a host in service: packages, program, secrets, timers, a first copy and its proof."""

import glob
import os
import subprocess

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: backup_host
short_description: Puts the backups of a database host in service, or out of it
description:
  - Places what differs, lets C(db-backup setup) make the account and the repository, and takes and proves a
    first backup where none is proven yet. Nothing secret is returned or on a command line.
  - Where they are absent only the timers go; what reads the repository stays.
options:
  state: {description: Whether it takes any., type: str, default: present, choices: [present, absent]}
  program: {description: The text of db-backup., type: str}
  files: {description: Files for root alone and their texts., type: dict}
  packages: {description: Packages it needs., type: list, elements: str}
  units: {description: Verbs with what they are about and when., type: dict}
  memory: {description: What a unit may take at most., type: str}
author: [the project]
"""
EXAMPLES = "# see roles/backup/tasks/main.yml\n"
RETURN = """
ok: {description: whether backups are in service, type: bool, returned: always}
trouble: {description: what went wrong, type: str, returned: always}
"""

PROGRAM = "/usr/local/sbin/db-backup"
FOLDER = "/etc/db-backup"
MARK = f"{FOLDER}/unfinished"  # left by a run that was cut off
SERVICE = """# Ansible managed: roles/backup
[Unit]
Description={about}
After=network-online.target
Wants=network-online.target

[Service]
Type=oneshot
ExecStart={program} {verb}
MemoryMax={memory}
Nice=10
IOSchedulingClass=idle
PrivateTmp=yes
NoNewPrivileges=yes
ProtectHome=yes
"""
TIMER = """# Ansible managed: roles/backup
[Unit]
Description={about}

[Timer]
OnCalendar={at}
Persistent=yes

[Install]
WantedBy=timers.target
"""


class Trouble(Exception):
    """One message."""


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    return done.returncode, done.stdout, done.stderr.strip()


def must(*words):
    status, out, wrong = run(*words)
    if status != 0:
        raise Trouble(wrong.splitlines()[-1] if wrong else f"{' '.join(words)} ended with {status}")
    return out


def text_of(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def state_of(path):
    """(text, mode), or None where there is no such file."""
    text = text_of(path)
    return None if text is None else (text, os.stat(path).st_mode & 0o777)


def place(path, text, mode):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    scratch = f"{path}.new"
    with os.fdopen(
        os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8"
    ) as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    os.replace(scratch, path)


def put_back(before):
    """A target that cannot be used must not take the place of one that can."""
    for path, was in before.items():
        if was is not None:
            place(path, *was)
        else:
            forget(path)
    run("systemctl", "daemon-reload")


def forget(path):
    if os.path.exists(path):
        os.unlink(path)


def missing(packages):
    _, out, _ = run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev}\\n", *packages)
    there = {line.split()[0] for line in out.splitlines() if line.split()[1:] == ["ii"]}
    return [name for name in packages if name not in there]


def declared(wanted):
    """{path: (text, mode)} of the program with its files, and of the units."""
    files = {PROGRAM: (wanted["program"], 0o755)}
    files |= {path: (text, 0o600) for path, text in wanted["files"].items()}
    units = {}
    for verb, unit in wanted["units"].items():
        name = f"/etc/systemd/system/db-backup-{verb}"
        values = {**unit, "verb": verb, "memory": wanted["memory"], "program": PROGRAM}
        units[f"{name}.service"] = (SERVICE.format(**values), 0o644)
        units[f"{name}.timer"] = (TIMER.format(**values), 0o644)
    return files, units


def proven():
    return '"proven"' in (text_of("/var/lib/db-backup/proof.json") or "")


def apply(wanted, check_mode):
    done = []
    files, units = declared(wanted)
    before = {path: state_of(path) for path in {**files, **units}}
    differing = {path: own for path, own in {**files, **units}.items() if before[path] != own}
    timers = [f"db-backup-{verb}.timer" for verb in wanted["units"]]
    asleep = any(run("systemctl", "is-active", "--quiet", name)[0] for name in timers)
    absent, cut_off = missing(wanted["packages"]), os.path.exists(MARK)
    if check_mode:
        return [*absent, *differing, *(timers if asleep or cut_off or not proven() else ())]
    if absent:
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        run("apt-get", "update", "-qq")
        install = ("apt-get", "install", "-y", "-qq", "--no-install-recommends")
        must(*install, "-o", "DPkg::Lock::Timeout=120", *absent)
        done.append("packages")
    os.makedirs(FOLDER, mode=0o700, exist_ok=True)
    os.chmod(FOLDER, 0o700)
    changed = [path for path in units if path in differing or cut_off]
    try:
        if differing:
            place(MARK, "db-backup setup has not looked at these files yet\n", 0o600)
        for path, own in differing.items():
            place(path, *own)
        if changed:
            must("systemctl", "daemon-reload")
        if differing or absent or cut_off or not proven():
            must(PROGRAM, "setup")
            done += [*differing, "setup"]
    except BaseException:
        # Where there were none the files stay, for `db-backup account`; the mark makes the next run look.
        if before[f"{FOLDER}/config.json"]:
            put_back({path: before[path] for path in differing if path != PROGRAM})
            if not cut_off:
                forget(MARK)
        raise
    forget(MARK)
    if not proven():
        for verb in ("take", "prove"):
            status, _, _ = run("systemctl", "start", f"db-backup-{verb}.service")
            if status != 0:
                unit = f"db-backup-{verb}.service"
                _, out, _ = run("journalctl", "-u", unit, "-n", "20", "-o", "cat", "--no-pager")
                said = [line for line in out.splitlines() if line.startswith(os.uname().nodename + ":")]
                raise Trouble(said[-1] if said else f"db-backup {verb} failed; see journalctl -u {unit}")
        done.append("first backup, proven")
    if changed or asleep:
        must("systemctl", "enable", "--now", *timers)
        if changed:
            must("systemctl", "restart", *timers)
        done.append("timers")
    return done


def leave(check_mode):
    """Another host takes them."""
    timers = sorted(os.path.basename(path) for path in glob.glob("/etc/systemd/system/db-backup-*.timer"))
    asked = ("is-enabled", "is-active")
    on = [name for name in timers if 0 in [run("systemctl", verb, "--quiet", name)[0] for verb in asked]]
    # Should it take them again, its binary log lacks what came meanwhile: that begins with a whole copy.
    names = ("timeline", "copied", "note.json", "proof.json")
    history = [path for path in (f"/var/lib/db-backup/{name}" for name in names) if os.path.exists(path)]
    if not check_mode:
        if on:
            must("systemctl", "disable", "--now", *on)
        for path in history:
            forget(path)
    return [*on, *history]


def main():
    present = {
        "program": {"type": "str"},
        "files": {"type": "dict", "no_log": True},
        "packages": {"type": "list", "elements": "str"},
        "units": {"type": "dict"},
        "memory": {"type": "str"},
    }
    state = {"type": "str", "default": "present", "choices": ["present", "absent"]}
    module = AnsibleModule(
        argument_spec={"state": state, **present},
        required_if=[("state", "present", list(present))],
        supports_check_mode=True,
    )
    try:
        here = module.params["state"] == "present"
        done = apply(module.params, module.check_mode) if here else leave(module.check_mode)
    except Trouble as trouble:
        module.exit_json(changed=False, ok=False, trouble=str(trouble))
    module.exit_json(changed=bool(done), ok=True, trouble="", done=done)


if __name__ == "__main__":
    main()
