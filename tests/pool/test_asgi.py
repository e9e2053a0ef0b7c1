"""ASGI: a thread a request, and threads that no request ends on."""

import json

from helpers import DATABASE, hammer, project, serve, wait_for

ASGI = """
import asyncio, gc, json, sys
from asgiref.testing import ApplicationCommunicator
from project_asgi import application
import djorm_pool
gc.disable()
path = sys.argv[1]

async def ask(number):
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
             "query_string": b"", "path": f"/{path}/{number}/", "raw_path": b"",
             "root_path": "", "scheme": "http",
             "headers": [], "server": ("testserver", 80), "client": ("127.0.0.1", 1)}
    one = ApplicationCommunicator(application, scope)
    await one.send_input({"type": "http.request", "body": b""})
    start = await one.receive_output(30)
    body = await one.receive_output(30)
    assert start["status"] == 200, body
    answer = json.loads(body["body"])
    assert answer["value"] == number
    await one.wait(10)
    return answer["connection"]

async def main():
    gate = asyncio.Semaphore(16)
    async def gated(n):
        async with gate:
            return await ask(n)
    return await asyncio.gather(*[gated(n) for n in range(150)])

numbers = set(asyncio.run(main()))
row = djorm_pool.status()["default"]
print(json.dumps({"connections": len(numbers), "created": row["created_total"], "out": row["checked_out"]}))
"""


def run(server, path, release="request"):
    server.create()
    options = {"pool_size": 5, "max_overflow": 0, "timeout": 20, "release": release}
    env = {"PROJECT_POOL": json.dumps(options)}
    done = project({"default": server.settings()}, "-c", ASGI, path, env=env)
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_sync_views_under_asgi(server):
    got = run(server, "echo")
    assert got["created"] <= 5 and got["connections"] <= 5 and got["out"] == 0


def test_async_views_that_use_other_threads_too(server):
    """Held to the request's end, each request would wait for a second connection while it holds its first."""
    got = run(server, "aecho", release="statement")
    assert got["created"] <= 5 and got["out"] == 0


def test_uvicorn_workers_stay_within_their_pools(server):
    """Real ASGI worker processes: every answer is its asker's own, threads share their worker's pool."""
    server.create()
    command = "-m uvicorn project_asgi:application --workers 2 --host 127.0.0.1 --port {port}"
    with serve(server, command=command) as port:
        numbers = hammer(port, requests=300, threads=16)
        assert len(server.connected(DATABASE)) <= 2 * 3
    assert len(numbers) <= 2 * 3
    wait_for(lambda: not server.connected(DATABASE))
