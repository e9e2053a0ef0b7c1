"""Is the application deployed as declared, and do the pool's settings hold in every worker process?

One look at each host (look_django_app.py, one round trip), then nothing but comparisons.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from declared import at_once, connect, exposure_of, load, names_in

LOOK = (Path(__file__).parent / "look_django_app.py").read_bytes()
RUN = "import base64,sys; exec(base64.b64decode(sys.argv.pop(1)))"


@pytest.fixture(params=names_in("application"))
def name(request) -> str:
    return request.param


def declared(name: str) -> dict:
    return load()["hosts"][name]["django_app"]


@at_once(names_in("application"))
def _look(name: str) -> dict | str:
    app = declared(name)
    want = {
        key: app[key]
        for key in ("name", "etc", "home", "socket", "user", "prefix", "services", "tls", "renew_files")
    }
    done = connect(name).run("python3 -c %s %s %s", RUN, base64.b64encode(LOOK).decode(), json.dumps(want))
    try:
        return json.loads(done.stdout)
    except ValueError:
        return f"{done.stdout}{done.stderr}"


def look(name: str) -> dict:
    found = _look(name)
    assert isinstance(found, dict), f"{name}: the look failed: {found}"
    return found


def unit(name: str, suffix: str = ".service") -> dict:
    return look(name)["units"][declared(name)["name"] + suffix]


def status(name: str) -> dict:
    answer = look(name)["http"]["status"]
    assert answer["status"] == 200, f"{name}: /pool.json answers {answer}"
    return json.loads(answer["body"])


def workers(name: str) -> list[dict]:
    """The processes of the main unit as they speak for themselves; nobody may be missing."""
    found = [worker for worker in status(name)["workers"] if worker["unit"] == "main"]
    assert found, f"{name}: no worker process told its status"
    return found


# ---- the service -----------------------------------------------------------------------------------


def test_service_runs_is_enabled_and_comes_back(name, compare):
    found = unit(name)
    compare("the service runs", "active", found["ActiveState"])
    compare("the service at boot", "enabled", found["UnitFileState"])
    compare("the service after a crash", "always", found["Restart"])


def test_systemd_holds_the_listening_socket(name, compare):
    found = unit(name, ".socket")
    compare("the socket listens", "active", found["ActiveState"])
    compare("the socket at boot", "enabled", found["UnitFileState"])
    # Where others may connect they get past the proxy.
    file = look(name)["files"][declared(name)["socket"]]
    compare(declared(name)["socket"], "660", f"{file['mode']:o}" if file else "missing")


def test_no_release_is_still_changing_over(name):
    for kind in ("-trial.service", "-next.service"):
        assert unit(name, kind)["ActiveState"] in ("inactive", "failed")


def test_services_beside_it_run_the_same_release(name):
    app, found = declared(name), look(name)
    assert sorted(found["services"]) == sorted(app["services"])
    for unit, state in found["services"].items():
        assert (state["ActiveState"], state["UnitFileState"], state["Restart"]) == (
            "active",
            "enabled",
            "always",
        ), unit
        assert state["User"] == app["user"], unit
        assert state["DJANGO_APP_RELEASE"] == found["release"], unit


def test_service_is_its_own_user_in_a_sandbox(name, compare):
    found = unit(name)
    assert found["User"] == declared(name)["user"] != "root"
    assert (found["NoNewPrivileges"], found["ProtectSystem"]) == ("yes", "strict")
    assert (found["PrivateUsers"], found["PrivateTmp"], found["CapabilityBoundingSet"]) == ("yes", "yes", "")
    exposure_of(look(name)["exposure"], f"{declared(name)['name']}.service", 2.0, compare)
    assert found["NeedDaemonReload"] == "no", "systemd runs an older unit file than the one on the disk"


# ---- files and secrets -----------------------------------------------------------------------------


def test_environment_file_is_for_the_service_alone(name, compare):
    app = declared(name)
    path = f"{app['etc']}/environment"
    file = look(name)["files"][path]
    live = f"{file['mode']:o} {file['owner']} {file['group']}" if file else "missing"
    compare(path, f"640 root {app['user']}", live)


def test_no_secret_is_readable_by_others(name, compare):
    found = look(name)
    assert {"DATABASE_PASSWORD", "DJANGO_SECRET_KEY"} <= set(found["secrets"]), (
        "the look knew no secret to look for"
    )
    leaks = sorted({f"{key} in {path}" for key, path in found["leaks"]})
    compare("secrets that others can read", "none", ", ".join(leaks) or "none")


def test_service_cannot_change_its_code(name, compare):
    home, found = declared(name)["home"], look(name)
    compare("code that the service could change", "none", ", ".join(found["writable"]) or "none")
    compare(f"owner of {home}", "root", (found["files"][home] or {"owner": "missing"})["owner"])


def test_release_in_service_is_the_one_on_the_disk(name, compare):
    found = look(name)
    assert found["release"] in found["releases"]
    for worker in workers(name):
        compare(
            f"release, process {worker['pid']}",
            "current",
            worker["release"],
            found["release"],
            same=worker["release"] == found["release"],
        )
    assert len(found["releases"]) <= max(declared(name)["keep_releases"], 2)


# ---- health ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["healthz", "readyz", "page"])
def test_health_and_status_answer(name, address):
    answer = look(name)["http"][address]
    assert answer["status"] == 200, f"{address} answers {answer['status']}: {answer['body'][:300]}"


def test_ready_means_a_query_by_this_release(name):
    found = look(name)
    assert json.loads(found["http"]["readyz"]["body"]) | {"pid": 0} == {
        "ready": True,
        "release": found["release"],
        "pid": 0,
    }


@pytest.mark.parametrize("who", ["stranger", "liar"])
def test_status_is_not_for_strangers(name, who):
    answer = look(name)["http"][who]
    assert answer["status"] == 403, f"a request from 203.0.113.7 gets {answer['status']}"


# ---- the pool, in every worker process -------------------------------------------------------------


def test_every_worker_process_is_heard(name):
    found = look(name)
    assert sorted(worker["pid"] for worker in workers(name)) == sorted(found["workers"])
    assert len(found["workers"]) == declared(name)["workers"]


def configured(name: str, key: str):
    """A value of the environment file, as the processes would take it at their next start."""
    value = look(name)["configured"].get(key, "(not in the file)")
    return int(value) if value.isdigit() else value


def test_pool_settings_in_every_worker_process(name, compare):
    app = declared(name)
    for worker in workers(name):
        assert worker.get("pools"), f"process {worker['pid']} has no pool: connections are not pooled"
        for alias, pool in worker["pools"].items():
            where = f"process {worker['pid']}, database {alias}"
            for key, value in app["pool"].items():
                file = configured(name, "POOL_" + key.removeprefix("pool_").upper())
                compare(f"{key}, {where}", value, pool["options"].get(key), file)
            pessimistic = str(app["pessimistic"]).lower()
            live = str(pool["pessimistic"]).lower()
            compare(f"pessimistic, {where}", pessimistic, live, configured(name, "POOL_PESSIMISTIC"))


def test_gunicorn_runs_as_declared(name, compare):
    app, found = declared(name), look(name)
    for option, value in app["gunicorn"].items():
        live, file = (
            [int(number) for number in re.findall(rf"--{option} (\d+)", command)]
            for command in (found["command"], unit(name)["ExecStart"])
        )
        compare(f"gunicorn --{option}", [value], live, file)
    need, limit = app["limit_nofile"], int(unit(name)["LimitNOFILE"])
    same = found["nofile"] >= need and limit >= need
    compare("open files of the application", need, found["nofile"], limit, same=same)
    parts = re.findall(r"(\d+)(min|s)\b", unit(name)["TimeoutStopUSec"])
    seconds = sum(int(number) * {"min": 60, "s": 1}[word] for number, word in parts)
    compare("TimeoutStopSec", app["stop_timeout"], seconds)


def test_no_connection_is_kept_outside_the_pool(name):
    for worker in workers(name):
        assert set(worker["conn_max_age"].values()) == {0}, f"process {worker['pid']}: CONN_MAX_AGE"


def test_pool_is_within_its_bound(name):
    app = declared(name)
    bound = app["pool"]["pool_size"] + app["pool"]["max_overflow"]
    for worker in workers(name):
        for pool in worker["pools"].values():
            assert pool["checked_out"] + pool["idle"] <= pool["peak"] <= bound, f"process {worker['pid']}"


def test_no_pooled_session_is_older_than_the_servers_values(name, compare):
    for worker in workers(name):
        for alias, pool in worker["pools"].items():
            where = f"process {worker['pid']}, database {alias}"
            files = declared(name)["renew_files"]
            known = alias if files.get(alias) else "default"
            compare(f"renew_file, {where}", files[known], pool["options"]["renew_file"])
            if pool["checked_out"] + pool["idle"]:
                compare(f"sessions since, {where}", look(name)["renew"][known], pool["renewed"])


def test_pooled_session_in_every_worker_process(name, compare):
    app = declared(name)
    for worker in workers(name):
        session, where = worker.get("session"), f"process {worker['pid']}"
        assert session, f"{where}: {worker.get('error')}"
        isolation = session["isolation"].replace("-", " ").lower()
        file = configured(name, "DATABASE_ISOLATION").replace("-", " ").lower()
        compare(f"session isolation, {where}", app["isolation"], isolation, file or app["isolation"])
        compare(f"session account, {where}", app["database_user"], session["account"].split("@")[0])
        waits = configured(name, "DATABASE_LOCK_WAIT_TIMEOUT")
        for variable in ("innodb_lock_wait_timeout", "lock_wait_timeout"):
            live = session["variables"][variable]
            compare(f"session {variable}, {where}", app["lock_wait_timeout"], live, waits)
        wait, recycle = session["variables"]["wait_timeout"], app["pool"]["recycle"]
        compare(f"session wait_timeout, {where}", f"> recycle {recycle}", wait, same=wait > recycle)
        if app["tls"]:
            compare(f"session encrypted, {where}", True, bool(session["ssl_cipher"]))


def test_a_server_with_another_authority_is_refused(name):
    if not declared(name)["tls"]:
        pytest.skip("the database is reached by its socket")
    said = look(name)["strange_authority"]
    assert said.startswith("refused:") and "certificate" in said.lower(), f"{name}: {said or 'no word'}"


def test_server_is_told_of_on_the_status_page(name):
    server = status(name)["server"]
    assert server.get("max_connections") and server.get("threads_connected"), server
    bound = sum(
        pool["options"]["pool_size"] + pool["options"]["max_overflow"]
        for worker in workers(name)
        for pool in worker["pools"].values()
    )
    assert bound <= server["max_connections"]
