#!/usr/bin/env python3
"""Breaks deployed hosts on purpose, one thing at a time, and expects the right check of the proof to be red.

    tests/infra/mutants.py [--fifth] [WORD ...]    (every fifth; those whose name has a WORD; all without)

DECLARED names the file with what is declared, as for the tests (see declared.py); scenario `mutants` writes
it. Every host that a mutant of mutants.yml suits is broken by it, one host beside the other. Prints the rate;
exit status 1 where a mutant survives, cannot be made or undone, or the hosts are not fine before and after.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import declared
import testinfra
import yaml

HERE = Path(__file__).resolve().parent
# What every break and undo may use; HOST's values come first.
PRELUDE = r"""
set -eu
kept=/root/mutant
sql() { $client --no-defaults --user=root --socket=$socket -BN -e "$1"; }
# keep FILE...: it comes back as it was, with owner and mode
keep() {
  for file in "$@"; do mkdir -p "$kept/files$(dirname "$file")"; cp -a "$file" "$kept/files$file"; done
}
# edit FILE SED: keep it, and change it
edit() { keep "$1"; cp -a "$1" "$kept/before"; sed -i "$2" "$1"; ! cmp -s "$1" "$kept/before"; }
# add FILE: a new file with what comes in; it goes again
add() { mkdir -p "$kept" "$(dirname "$1")"; cat >"$1"; chmod 644 "$1"; echo "$1" >>"$kept/added"; }
# live NAME VALUE: SET GLOBAL; it goes back
live() {
  mkdir -p "$kept"; old=$(sql "SELECT @@GLOBAL.$1")
  case $old in (*[!0-9]* | '') old="'$old'" ;; esac
  echo "SET GLOBAL $1 = $old;" >>"$kept/sql"; sql "SET GLOBAL $1 = $2"
}
# drop_in UNIT: lines for its [Service]
drop_in() {
  { echo '[Service]'; cat; } | add "/etc/systemd/system/$1.d/zz-mutant.conf"
  systemctl daemon-reload
}
# systemd would call it too often
restart() { systemctl reset-failed "$1" 2>&- || true; systemctl restart "$1"; }
# setting NAME VALUE: one line of the environment file, and a restart
setting() { edit /etc/$app/environment "s|^$1=.*|$1=\"$2\"|"; restart $app; }
back() {
  test -d "$kept" || return 0
  test ! -e "$kept/sql" || sql "$(cat "$kept/sql")"
  test ! -e "$kept/added" || xargs rm -f <"$kept/added"
  test ! -d "$kept/files" || (cd "$kept/files"; find . -type f -printf '%P\n' |
    while read -r file; do cp -a --remove-destination "$kept/files/$file" "/$file"; done)
  rm -rf "$kept"; systemctl daemon-reload
}
"""


def values(name: str) -> str:
    """What the commands of HOST's mutants call things."""
    host = declared.load()["hosts"][name]
    mysql, app, web = host["mysql"], host["django_app"], host["web"]
    accounts = {entry["role"]: f"'{entry['name']}'@'{entry['host']}'" for entry in mysql["accounts"]}
    pairs = {
        "client": "mariadb" if mysql["flavor"] == "mariadb" else "mysql",
        "socket": mysql["socket"],
        "cnf": mysql["path"],
        "server": mysql["unit"].removesuffix(".service"),
        "tls": mysql["tls_path"],
        "door": "extra_port" if mysql["flavor"] == "mariadb" else "admin_",
        "app": app["name"],
        "app_user": app["user"],
        "home": app["home"],
        "site": web["site"],
        "secrets": mysql["secrets_dir"],
        **{f"{role}_account": account for role, account in accounts.items()},
        **{f"{entry['role']}_limit": entry["max_user_connections"] for entry in mysql["accounts"]},
    }
    return "".join(f'{key}="{value}"\n' for key, value in pairs.items())


def proof(name: str, folder: Path, check: str = "") -> list[dict]:
    """The proof of one host, without the load, or one check of it: its rows."""
    state = folder / f"{name}.declared.json"
    state.write_text(json.dumps({"hosts": {name: declared.load()["hosts"][name]}}), encoding="utf-8")
    report = folder / f"{name}.report.json"
    report.unlink(missing_ok=True)
    words = ["-q", "-p", "no:cacheprovider", "--tb=no", str(HERE), f"--ignore={HERE / 'test_load.py'}"]
    words += ["-k", "test_" + check.replace(" ", "_")] if check else []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {"DECLARED": str(state), "VERIFY_REPORT": str(report), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    if not report.exists():
        raise SystemExit(f"{name}: no proof: {done.stdout}{done.stderr}")
    return json.loads(report.read_text(encoding="utf-8"))["rows"]


class Stuck(Exception):
    """A host that is no longer as it was."""


class Host:
    """One host, its mutants one after the other."""

    def __init__(self, name: str, mutants: list[dict], folder: Path) -> None:
        self.name, self.folder = name, folder
        flavor = declared.load()["hosts"][name]["mysql"]["flavor"]
        self.mutants = [mutant for mutant in mutants if mutant.get("flavor", flavor) == flavor]
        self.caught, self.missed = 0, []

    def run(self, commands: str, where: str = "host") -> str:
        """Run COMMANDS, on the host as root; what they said where they failed."""
        script = f"{values(self.name)}{PRELUDE}{commands}\n"
        on = declared.connect(self.name) if where == "host" else testinfra.get_host("local://")
        done = on.run("timeout 120 bash -c %s", script)
        return "" if done.rc == 0 else f"exit {done.rc}: {done.stderr.strip() or done.stdout.strip()}"

    def wrong(self, check: str = "") -> list[dict]:
        return [row for row in proof(self.name, self.folder, check) if not row["same"]]

    def judge(self, mutant: dict) -> str:
        """What went wrong with the proof of this mutant; nothing where it was caught."""
        where = mutant.get("where", "host")
        failed = self.run(mutant["break"], where)
        caught = not failed and any(self.says(row, mutant) for row in self.wrong(mutant["red"]))
        others = [] if failed or caught else sorted({row["check"] for row in self.wrong()})
        undone = self.run("back") or self.run(mutant.get("undo", ""), where)
        if undone:
            raise Stuck(f"'{mutant['name']}' could not be undone, the rest was not tried: {undone}")
        if failed:
            return f"could not be made: {failed}"
        return "" if caught else f"'{mutant['red']}' did not say it; red: {', '.join(others) or 'nothing'}"

    @staticmethod
    def says(row: dict, mutant: dict) -> bool:
        said = " ".join(str(row[key]) for key in ("what", "declared", "file", "live") if row[key] != "")
        return row["check"] == mutant["red"] and mutant.get("says", "") in said

    def all(self) -> None:
        try:
            self.fine("before")
            for mutant in self.mutants:
                start = time.monotonic()
                missed = self.judge(mutant)
                if missed:
                    self.missed.append(f"{mutant['name']}: {missed}")
                else:
                    self.caught += 1
                how = f"{'SURVIVED' if missed else 'caught  '} {time.monotonic() - start:4.1f} s"
                print(f"{self.name}: {how}  {mutant['name']} {missed}".rstrip(), flush=True)
            self.fine("after")
        except Stuck as problem:
            self.missed.append(str(problem))

    def fine(self, when: str) -> None:
        """Red without a mutant proves nothing; after a restart the last worker may still be coming up."""
        deadline = time.monotonic() + 20
        while (wrong := self.wrong()) and time.monotonic() < deadline:
            pass
        if wrong:
            raise Stuck(f"not fine {when} the mutants: {wrong}")


def main() -> int:
    words = [word.lower() for word in sys.argv[1:] if word != "--fifth"]
    mutants = yaml.safe_load((HERE / "mutants.yml").read_text(encoding="utf-8"))
    mutants = mutants[:: 5 if "--fifth" in sys.argv else 1]
    mutants = [
        mutant for mutant in mutants if not words or any(word in mutant["name"].lower() for word in words)
    ]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        hosts = [Host(name, mutants, Path(folder)) for name in declared.load()["hosts"]]
        list(pool.map(Host.all, hosts))
    caught, total = sum(host.caught for host in hosts), sum(len(host.mutants) for host in hosts)
    for host in hosts:
        for missed in host.missed:
            print(f"{host.name}: {missed}", file=sys.stderr)
    print(f"{caught} of {total} caught: {len(mutants)} mutants on {len(hosts)} hosts")
    return 1 if any(host.missed for host in hosts) or not total else 0


if __name__ == "__main__":
    sys.exit(main())
