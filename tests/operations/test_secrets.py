"""A run as talkative as it can be, and then every place where a secret must not be."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest
import site_operations as site

WATCH = r"""
rm -f /run/watched /run/stop-watching
(while ! [ -e /run/stop-watching ]; do
  cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' ' '
done >/run/watched) >/dev/null 2>&1 &
"""
LOOK = r"""
umask 077
cat >/root/patterns <<'END'
{patterns}
END
touch /run/stop-watching
grep -cFf /root/patterns /run/watched && echo "IN: process list"
journalctl --quiet --no-pager -o cat | grep -cFf /root/patterns && echo "IN: journal"
find / -xdev \( -path /proc -o -path /sys \) -prune -o -type f -perm -004 -size -8M -print0 |
  xargs -0 grep -lFf /root/patterns | sed 's/^/IN: /'
rm -f /root/patterns /run/watched
true
"""


OLD: list[str] = []  # what was valid before the run


def every_secret() -> list[str]:
    found = list(OLD)
    for path in site.SECRETS.iterdir():
        if path.name == "ca.pem" or path.name.startswith("."):
            continue
        lines = [line.strip() for line in path.read_text().splitlines()]
        found += [line for line in lines if len(line) > 20 and not line.startswith("-----")]
    return found


def controllers_processes(stop: threading.Event, seen: list[str]) -> None:
    while not stop.is_set():
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue


@pytest.fixture(scope="module")
def talkative(tmp_path_factory):
    """What the run said, its processes, and what it noted (log, cache of facts); with new passwords."""
    notes = tmp_path_factory.mktemp("notes")
    OLD.extend(every_secret())
    for host in site.FLEET.hosts:
        site.on(host, WATCH)
    stop, seen = threading.Event(), []
    watcher = threading.Thread(target=controllers_processes, args=(stop, seen), daemon=True)
    watcher.start()
    try:
        run = subprocess.run(
            ["ansible-playbook", "-vvv", "--diff", "-i", site.INVENTORY, "playbooks/rotate.yml"],
            cwd=site.ROOT,
            capture_output=True,
            text=True,
            env=os.environ
            | {
                "ANSIBLE_CONFIG": str(site.ROOT / "ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_LOG_PATH": str(notes / "log"),
                "ANSIBLE_CACHE_PLUGIN": "jsonfile",
                "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(notes / "facts"),
            },
        )
    finally:
        stop.set()
        watcher.join()
    assert run.returncode == 0, (run.stdout + run.stderr)[-3000:]
    noted = {path.name: path.read_text() for path in notes.rglob("*") if path.is_file()}
    return run.stdout + run.stderr, "\n".join(set(seen)), noted


def test_there_is_something_to_look_for(talkative):
    assert len(every_secret()) >= 6
    assert len(talkative[0]) > 100_000, "-vvv says much"


def test_not_in_what_the_run_said(talkative):
    assert [secret[:4] + "..." for secret in every_secret() if secret in talkative[0]] == []


def test_not_in_its_log_or_the_cache_of_facts(talkative):
    assert any("ansible_distribution" in text for text in talkative[2].values()), "facts are cached"
    assert "PLAY RECAP" in talkative[2]["log"]
    found = [name for name, text in talkative[2].items() for secret in every_secret() if secret in text]
    assert found == []


def test_not_in_the_controllers_process_list(talkative):
    assert "playbooks/rotate.yml" in talkative[1]
    assert [secret[:4] + "..." for secret in every_secret() if secret in talkative[1]] == []


def test_not_in_files_that_others_on_the_controller_can_read(talkative):
    places = [site.ROOT / ".cache", site.INVENTORY, Path.home() / ".ansible"]
    found = [
        path
        for place in places
        for path in place.rglob("*")
        if path.is_file() and path.stat().st_mode & 0o004 and path.stat().st_size < 8_000_000
        if any(secret.encode() in path.read_bytes() for secret in every_secret())
    ]
    assert found == []


@pytest.mark.parametrize("host", site.FLEET.hosts)
def test_not_on_a_host_where_others_can_read(host, talkative):
    said = site.on(host, LOOK.format(patterns="\n".join(every_secret())))
    assert [line for line in said.splitlines() if line.startswith("IN: ")] == []
    # and the search finds what is there to be found
    secret = every_secret()[0]
    site.on(host, f"umask 022; echo {secret} >/var/tmp/planted; {WATCH}")
    said = site.on(host, LOOK.format(patterns="\n".join(every_secret())) + "rm /var/tmp/planted")
    assert "IN: /var/tmp/planted" in said
