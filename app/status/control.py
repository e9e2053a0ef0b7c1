"""A line to every worker process.

A request reaches one worker, whichever the kernel picks. To speak for all of them, each worker answers on
a unix socket of its own in the service's runtime folder (mode 0600, so the service itself and root), and
whoever wants the whole picture asks them one by one. Nothing is written periodically; figures are as of
the moment of asking.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
from pathlib import Path
from typing import Any

from django.db import close_old_connections, connections

from . import facts

log = logging.getLogger(__name__)
PATTERN = "worker-*.sock"
TIMEOUT = 2.0
_started_in = 0
_lock = threading.Lock()


def folder() -> Path | None:
    """Where this process listens; systemd names it. None: nobody asked for it."""
    path = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(path) if path else None


def answer(command: str) -> dict[str, Any]:
    """What a worker says to one command."""
    if command == "status":
        return facts.process()
    try:
        if command == "ready":
            return {**facts.process(), "ready": True, "session": facts.session()}
        if command == "migrations":
            return {"pid": os.getpid(), "pending": facts.pending_migrations()}
    except Exception as problem:
        # The asker decides what an unready worker means; this thread must live on.
        return {**facts.process(), "ready": False, "error": f"{type(problem).__name__}: {problem}"}
    finally:
        # Back into the pool: this thread holds no connection between two questions.
        close_old_connections()
        connections.close_all()
    return {"pid": os.getpid(), "error": f"unknown command {command!r}"}


def _serve(server: socket.socket) -> None:
    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        with peer, contextlib.suppress(OSError):
            peer.settimeout(TIMEOUT)
            command = peer.recv(64).decode("ascii", "replace").strip()
            peer.sendall(json.dumps(answer(command), default=str).encode())


def start() -> None:
    """Answer from now on; once per process, again in a process forked from this one."""
    global _started_in
    where = folder()
    if where is None or not where.is_dir():
        return
    with _lock:
        if _started_in == os.getpid():
            return
        path = where / f"worker-{os.getpid()}.sock"
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(str(path))
        path.chmod(0o600)
        server.listen(16)
        threading.Thread(target=_serve, args=(server,), name="status", daemon=True).start()
        _started_in = os.getpid()


def _forked() -> None:
    """A worker forked after the application was loaded (gunicorn --preload) needs a line of its own."""
    global _lock
    _lock = threading.Lock()
    if _started_in:
        start()


os.register_at_fork(after_in_child=_forked)


def ask(path: Path, command: str, timeout: float = TIMEOUT) -> dict[str, Any] | None:
    """One worker's answer; None when nobody listens there any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout)
        try:
            client.connect(str(path))
            client.sendall(command.encode())
            chunks = []
            while chunk := client.recv(65536):
                chunks.append(chunk)
            return json.loads(b"".join(chunks))
        except (ConnectionError, FileNotFoundError):
            # A worker that was killed leaves its socket file behind.
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        except (OSError, ValueError) as problem:
            return {"pid": int(path.stem.rpartition("-")[2]), "error": f"{type(problem).__name__}: {problem}"}


def workers(command: str = "status") -> list[dict[str, Any]]:
    """Every worker on this host, also those of a release that is coming or going."""
    where = folder()
    if where is None:
        return [answer(command)]
    found = [ask(path, command) for path in sorted(where.parent.glob(f"*/{PATTERN}"))]
    return sorted((one for one in found if one), key=lambda one: (one.get("unit", ""), one["pid"]))
