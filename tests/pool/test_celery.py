"""Celery's prefork workers: children of a process that may hold a connection when it forks."""

import json
import subprocess
import sys

import pytest
from helpers import DATABASE, PROJECT, environment, wait_for

SEND = """
import json, sys
from project_celery import echo
sent = [echo.delay(number) for number in range(int(sys.argv[1]))]
print(json.dumps([one.get(timeout=60) for one in sent]))
"""


@pytest.mark.parametrize("early", [False, True], ids=["", "parent-connected"])
def test_celery_prefork(server, tmp_path, early):
    server.create()
    for name in ("queue", "control", "results"):
        (tmp_path / name).mkdir()
    env = environment({"default": server.settings()}, {"CELERY_FOLDER": str(tmp_path)})
    worker = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "project_celery",
            "worker",
            "--pool=prefork",
            "--concurrency=3",
        ],
        cwd=PROJECT,
        env=env | ({"CELERY_EARLY": "1"} if early else {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", SEND, "60"],
            cwd=PROJECT,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        answers = json.loads(done.stdout)
        owners = {}
        for number, (value, connection, process) in enumerate(answers):
            assert value == number
            owners.setdefault(connection, set()).add(process)
        # No connection is used by two processes: nothing of the parent's leaked into a child.
        assert all(len(processes) == 1 for processes in owners.values())
        assert len(owners) <= 3, "a connection for each task: none was used again"
    finally:
        worker.terminate()
        worker.wait(60)
    wait_for(lambda: not server.connected(DATABASE))
