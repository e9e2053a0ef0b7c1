"""The hosts of scenario `release`: how they are reached, deployed to and kept under load."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))
import reference_releases  # noqa: E402

INVENTORY = ROOT / "molecule" / "release" / "inventory"
SOURCE = ROOT / ".cache" / "release"
APPLICATIONS = ("release-app1", "release-app2")
WEB = "release-web"
# The proof has its own time and load; these runs look at the releases.
DEPLOY = ("playbook.yml", "--skip-tags", "verify")


def _hosts() -> dict[str, dict]:
    out = subprocess.run(
        ["ansible-inventory", "-i", str(INVENTORY), "--list"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(out.stdout)["_meta"]["hostvars"]


HOSTS = _hosts()


def on(host: str, script: str) -> str:
    """Run SCRIPT as root on HOST."""
    keys = ROOT / ".cache" / "sandbox"
    options = (f"UserKnownHostsFile={keys}/known_hosts", "BatchMode=yes", "LogLevel=ERROR")
    out = subprocess.run(
        [
            "ssh",
            *itertools.chain(*(("-o", option) for option in options)),
            *("-i", f"{keys}/id_ed25519", f"ansible@{HOSTS[host]['ansible_host']}"),
            "sudo sh -s",
        ],
        input=script,
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, f"{host}: {script}\n{out.stdout}{out.stderr}"
    return out.stdout.strip()


def sql(statement: str) -> str:
    return on(WEB, f"mariadb -BN journal <<'END'\n{statement}\nEND")


def release_of(host: str) -> str:
    return on(host, "basename $(readlink /srv/django-app/current)")


def make(number: int, change: Callable[[Path], None] = lambda folder: None) -> None:
    """What the next deployment deploys: release NUMBER of the reference site, with CHANGE made to it."""
    reference_releases.make(SOURCE, number)
    change(SOURCE)


class Play:
    """One ansible-playbook, started; events as they happen."""

    def __init__(
        self, playbook: str, *arguments: str, variables: dict | None = None, folder: Path = ROOT
    ) -> None:
        command = ["ansible-playbook", "-i", str(INVENTORY), playbook, *arguments]
        self.events: list[dict] = []
        self.more = threading.Condition()
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [*command, "-e", json.dumps(variables or {})],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=os.environ
            | {
                "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
                "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.jsonl",
                "ANSIBLE_NOCOLOR": "1",
            },
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"_event": "text", "text": line}
            with self.more:
                self.events.append(event)
                self.more.notify_all()
        with self.more:
            self.events.append({"_event": "end"})
            self.more.notify_all()

    def wait_for(self, wanted: Callable[[dict], bool]) -> bool:
        """True at the first event that is WANTED, False when the run ended without it."""
        for number in itertools.count():
            with self.more:
                while len(self.events) <= number:
                    self.more.wait()
                event = self.events[number]
            if event["_event"] == "end" or wanted(event):
                return event["_event"] != "end"

    def kill(self) -> None:
        """As a controller that loses power: nobody gets to say goodbye."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join()

    def finish(self) -> Play:
        self.process.wait()
        self.reader.join()
        self.seconds = time.monotonic() - self.started
        return self

    @property
    def status(self) -> int:
        return self.process.returncode

    @property
    def text(self) -> str:
        """All that was said, on one line."""
        said = []
        for event in self.events:
            for result in event.get("hosts", {}).values():
                if isinstance(result, dict):
                    said += [str(result.get(key, "")) for key in ("msg", "module_stderr")]
            said.append(event.get("text", ""))
        return " ".join(" ".join(said).split())

    def results(self) -> list[tuple[str, str, dict, float]]:
        """(task, host, result, seconds) of all that ran."""
        found = []
        for event in self.events:
            task = event.get("task") or {}
            if not event["_event"].startswith("v2_runner_on_") or "name" not in task:
                continue
            for host, result in event.get("hosts", {}).items():
                if isinstance(result, dict) and not result.get("skipped"):
                    found.append((task["name"], host, result, _seconds(task)))
        return found

    def changes(self) -> set[tuple[str, str]]:
        return {(task, host) for task, host, result, _ in self.results() if result.get("changed")}


def _seconds(task: dict) -> float:
    duration = task.get("duration") or {}
    if not duration.get("end"):
        return 0.0
    start, end = (datetime.fromisoformat(duration[key].replace("Z", "+00:00")) for key in ("start", "end"))
    return (end - start).total_seconds()


def deploy(**variables) -> Play:
    return Play(*DEPLOY, variables=variables).finish()


class Load:
    """Writers and readers at a constant rate through the web host; whatever is not answered well is kept."""

    def __init__(self, rate: float = 40, clients: int = 12) -> None:
        self.rate, self.clients = rate, clients
        self.source = f"release {uuid.uuid4().hex[:8]}"
        self.failures: list[str] = []
        self.acknowledged: set[str] = set()
        self.answers, self.slowest = 0, 0.0
        self.stop, self.lock = threading.Event(), threading.Lock()

    def __enter__(self) -> Load:
        self.start = time.monotonic()
        self.slot = 0
        self.threads = [threading.Thread(target=self._client, daemon=True) for _ in range(self.clients)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()
        self.seconds = time.monotonic() - self.start

    def _client(self) -> None:
        while not self.stop.is_set():
            with self.lock:
                due, number = self.start + self.slot / self.rate, self.slot
                self.slot += 1
            if self.stop.wait(max(0.0, due - time.monotonic())):
                return
            self._request(number)

    def _request(self, number: int) -> None:
        began = time.monotonic()
        client = http.client.HTTPConnection(HOSTS[WEB]["ansible_host"], timeout=60)
        reference = uuid.uuid4().hex
        try:
            if number % 2:
                body = json.dumps({"text": "row", "source": self.source, "reference": reference})
                client.request("POST", "/journal/", body, {"Content-Type": "application/json"})
            else:
                client.request("GET", "/journal/?format=json")
            answer = client.getresponse()
            said = answer.read()
            problem = "" if answer.status in (200, 201) else f"HTTP {answer.status}: {said[:200]!r}"
        except (OSError, http.client.HTTPException) as error:
            problem = f"{type(error).__name__}: {error}"
        finally:
            client.close()
        with self.lock:
            self.answers += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            if problem:
                self.failures.append(f"at {began - self.start:.1f} s: {problem}")
            elif number % 2:
                self.acknowledged.add(reference)

    def stored(self) -> tuple[int, int]:
        """Of the acknowledged rows: how many are stored, and rows stored more than once."""
        rows = sql(f"SELECT reference FROM journal_entry WHERE source = '{self.source}'").split()
        return len(self.acknowledged & set(rows)), len(rows) - len(set(rows))
