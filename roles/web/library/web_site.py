#!/usr/bin/python
"""Puts our site's files before nginx, judged by nginx itself, and keeps nginx running with them."""

import contextlib
import os
import re
import subprocess
import tempfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: web_site
short_description: One nginx site, its certificate, and the service, in one round trip
description:
  - The files are placed together, nginx judges its whole configuration with them, and only then reloads; what
    it rejects is taken back, and the running nginx never sees it.
options:
  site: {description: The rendered site., type: str, required: true}
  site_path: {description: Where it goes., type: path, required: true}
  certificate: {description: The certificate with its chain; empty for none., type: str, default: ""}
  certificate_path: {description: Where it goes., type: path, required: true}
  key: {description: Its key; empty for none., type: str, default: ""}
  key_path: {description: Where it goes., type: path, required: true}
  worker_connections: {description: At least so many in each of nginx's processes., type: int, required: true}
  drop_in: {description: The unit's drop-in., type: str, required: true}
  drop_in_path: {description: Where it goes., type: path, required: true}
author: [the project]
"""
EXAMPLES = "# see roles/web/tasks/main.yml\n"
RETURN = """
installed: {description: is nginx there, type: bool, returned: always}
actions: {description: what was done, type: list, returned: always}
"""

NGINX = "/usr/sbin/nginx"
MAIN = "/etc/nginx/nginx.conf"
EXAMPLE = "/etc/nginx/sites-enabled/default"  # the distribution's own; it would answer in our place
# There while placed files are not yet loaded: a run that was cut off in between is ended by the next.
# In /run, because a boot loads them too.
PENDING = "/run/django-app-web.pending"


def run(*words):
    done = subprocess.run(  # noqa: S603 (a list, no shell)
        words, capture_output=True, text=True, errors="replace", check=False
    )
    return done.returncode, (done.stdout + done.stderr).strip()


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return None


def write(path, text, mode):
    """Whole or not at all; text None takes it away."""
    if text is None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    # 0600 until it is what it should be
    handle, part = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.rename(part, path)
    except BaseException:
        os.unlink(part)
        raise


def mode_of(path):
    try:
        state = os.stat(path)
    except FileNotFoundError:
        return None
    return (state.st_mode & 0o7777, state.st_uid, state.st_gid)


class Site:
    def __init__(self, module):
        self.module, wanted = module, module.params
        self.files = {wanted["site_path"]: (wanted["site"], 0o644)}
        if wanted["certificate"]:
            self.files[wanted["certificate_path"]] = (wanted["certificate"], 0o644)
            self.files[wanted["key_path"]] = (wanted["key"], 0o600)
        self.widen(wanted["worker_connections"])
        self.drop_in = wanted["drop_in_path"]
        self.files[self.drop_in] = (wanted["drop_in"], 0o644)
        self.secret_path = wanted["key_path"]
        self.actions, self.diff = [], []

    def widen(self, least):
        """Only nginx's main file says how many connections a process holds; a larger number there stays."""
        text = read(MAIN) or ""
        found = re.search(r"(?m)^(\s*worker_connections\s+)(\d+)(\s*;)", text)
        if found and int(found.group(2)) < least:
            wider = f"{text[: found.start(2)]}{least}{text[found.end(2) :]}"
            self.files[MAIN] = (wider, mode_of(MAIN)[0])

    def differing(self):
        """Path -> (before, after, mode) of what is not as it should be."""
        found = {}
        for path, (text, mode) in self.files.items():
            before = read(path)
            if before != text or mode_of(path) != (mode, 0, 0):
                found[path] = (before, text, mode)
        if os.path.islink(EXAMPLE):
            found[EXAMPLE] = (os.readlink(EXAMPLE), None, 0)
        return found

    def place(self, differing):
        """Place the files and have nginx judge everything; taken back where it says no."""
        write(PENDING, "restart" if self.drop_in in differing else read(PENDING) or "", 0o600)
        try:
            for path, (_, text, mode) in differing.items():
                os.makedirs(os.path.dirname(path), exist_ok=True)
                write(path, text, mode)
                if text is not None:
                    os.chown(path, 0, 0)
            code, said = run(NGINX, "-t", "-q")
            if code == 0:
                return
            said = f"nginx rejects its configuration with the new site: {said}"
        except OSError as error:
            said = f"the site's files cannot be written: {error}"
        for path, (before, _, mode) in differing.items():
            if path != EXAMPLE:
                write(path, before, mode)
            elif not os.path.islink(EXAMPLE):
                os.symlink(before, EXAMPLE)
        write(PENDING, None, 0)
        self.module.fail_json(msg=f"{said}. The previous files are back; nginx went on with them.")

    def serve(self, differing):
        """nginx enabled, running, and running with these files."""
        names = "ActiveState,UnitFileState,NeedDaemonReload,NoNewPrivileges,MainPID"
        _, shown = run("systemctl", "show", "nginx.service", f"--property={names}")
        state = dict(line.partition("=")[::2] for line in shown.splitlines())
        confine = self.drop_in in differing or read(PENDING) == "restart"
        if state.get("NoNewPrivileges") == "yes" and state.get("ActiveState") == "active":
            confine = confine or "NoNewPrivs:\t0" in (read(f"/proc/{state.get('MainPID')}/status") or "")
        if (confine or state.get("NeedDaemonReload") == "yes") and not self.module.check_mode:
            run("systemctl", "daemon-reload")
        if state.get("UnitFileState") != "enabled":
            self.act("nginx enabled", "systemctl", "enable", "--quiet", "nginx.service")
        if state.get("ActiveState") != "active":
            self.act("nginx started", "systemctl", "start", "nginx.service")
        elif confine:  # a reload would keep the process as it is
            self.act(
                "nginx restarted",
                "systemctl",
                "restart",
                "nginx.service",
                drop_in=differing.get(self.drop_in),
            )
        elif differing or os.path.exists(PENDING):
            self.act("nginx reloaded", "systemctl", "reload", "nginx.service")
        if not self.module.check_mode:
            write(PENDING, None, 0)

    def act(self, what, *words, drop_in=None):
        self.actions.append(what)
        if self.module.check_mode:
            return
        code, said = run(*words)
        if code:
            _, log = run("journalctl", "--unit=nginx.service", "--lines=15", "--no-pager", "--output=cat")
            if drop_in:  # back to the unit that served
                write(self.drop_in, drop_in[0], 0o644)
                run("systemctl", "daemon-reload")
                code, _ = run("systemctl", "start", "nginx.service")
                if not code:  # with all the other files
                    write(PENDING, None, 0)
                said += (
                    f"; {self.drop_in} is as it was, and nginx "
                    f"{'does not start either' if code else 'serves again'}; mend: give nginx what it needs "
                    "in a drop-in of your own, or set web_unit_sandbox: false"
                )
            self.module.fail_json(msg=f"`{' '.join(words)}` failed: {said}\n{log}", actions=self.actions)

    def run(self):
        if not os.path.exists(NGINX):
            self.module.exit_json(changed=False, installed=False, actions=[])
        differing = self.differing()
        for path, (before, text, _) in differing.items():
            self.actions.append(f"{path} {'removed' if text is None else 'written'}")
            if path not in (self.secret_path, EXAMPLE):
                self.diff.append(
                    {"before": before or "", "after": text, "before_header": path, "after_header": path}
                )
        if differing and not self.module.check_mode:
            self.place(differing)
        self.serve(differing)
        self.module.exit_json(
            changed=bool(self.actions), installed=True, actions=self.actions, diff=self.diff
        )


def main():
    text = {"type": "str", "default": ""}
    path = {"type": "path", "required": True}
    module = AnsibleModule(
        argument_spec={
            "site": {"type": "str", "required": True},
            "site_path": path,
            "certificate": text,
            "certificate_path": path,
            "key": text | {"no_log": True},
            "key_path": path | {"no_log": False},
            "worker_connections": {"type": "int", "required": True},
            "drop_in": {"type": "str", "required": True},
            "drop_in_path": path,
        },
        supports_check_mode=True,
    )
    Site(module).run()


if __name__ == "__main__":
    main()
