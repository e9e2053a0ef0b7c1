"""Where one server's values come from, files, memory and the template."""

import jinja2
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from planner import files, memory, units
from planner.errors import PlanError
from planner.settings import resolve

GIB = 2**30
SERVERS = [("mysql", "9.7.4"), ("mysql", "8.4.6"), ("mariadb", "11.8.6"), ("mariadb", "10.11.18")]
server = pytest.mark.parametrize(("flavor", "version"), SERVERS)


def rows(result):
    return {row["name"].replace("-", "_"): row for row in result["settings"] if row["section"] == "mysqld"}


def value(result, name):
    return rows(result)[name]["value"]


# --- origins ---------------------------------------------------------------------------------------------
@server
def test_an_explicit_value_is_never_altered(flavor, version):
    user = {
        "mysql_thread_stack": "192K",
        "mysql_key_buffer_size": "2048M",
        "mysql_innodb_file_per_table": False,
    }
    result = resolve(user, flavor, version, {"memory_bytes": 64 * GIB}, {"connections": 50})
    assert value(result, "thread_stack") == 192 * 1024
    assert value(result, "key_buffer_size") == 2 * GIB
    assert value(result, "innodb_file_per_table") is False
    warned = " ".join(result["warnings"])
    assert "mysql_key_buffer_size" in warned
    assert "mysql_innodb_file_per_table" in warned
    assert ("mysql_thread_stack" in warned) == (flavor == "mysql")


def test_numbers_and_truths_as_inventories_write_them():
    user = {
        "mysql_max_connections": "200",
        "mysql_innodb_file_per_table": "off",
        "mysql_long_query_time": "0.5",
    }
    result = resolve(user, "mysql", "9.7.4", {}, {})
    assert [value(result, n) for n in ("max_connections", "innodb_file_per_table", "long_query_time")] == [
        200,
        False,
        0.5,
    ]


def test_every_problem_is_named_at_once():
    user = {
        "mysql_max_connections": "many",
        "mysql_innodb_buffer_pool_size": 256,
        "mysql_transaction_isolation": "X",
    }
    with pytest.raises(PlanError) as caught:
        resolve(user, "mysql", "9.7.4", {}, {"name": "db1"})
    assert len(caught.value.problems) == 3
    text = str(caught.value)
    assert (
        "db1: mysql_max_connections=many: is not a whole number; mend: set mysql_max_connections to 3000"
        in text
    )
    assert "mysql_innodb_buffer_pool_size=256: a size needs a unit" in text


def test_names_of_tables_follow_the_data_directory():
    made = {"datadir_initialised": True, "live_lower_case_table_names": 0}
    row = rows(resolve({}, "mysql", "9.7.4", made, {}))["lower_case_table_names"]
    assert (row["value"], row["origin"]) == (0, "departure")
    first = rows(resolve({}, "mysql", "9.7.4", {"datadir_initialised": False}, {}))["lower_case_table_names"]
    again = rows(resolve({}, "mysql", "9.7.4", {**made, "live_lower_case_table_names": 1}, {}))[
        "lower_case_table_names"
    ]
    assert first == again  # or the second run would change the file
    assert "lower_case_table_names" not in rows(
        resolve({}, "mysql", "9.7.4", {"datadir_initialised": True}, {})
    )
    with pytest.raises(PlanError, match="the server would not start"):
        resolve({"mysql_lower_case_table_names": 1}, "mysql", "9.7.4", made, {})


def test_the_address_listened_on():
    assert value(resolve({}, "mysql", "9.7.4", {}, {}), "bind_address") == "127.0.0.1"
    assert value(resolve({}, "mysql", "9.7.4", {}, {"listen": True}), "bind_address") == "*"
    with pytest.raises(PlanError, match="listens on this host only, but app2 needs"):
        resolve(
            {"mysql_bind_address": "127.0.0.1"},
            "mysql",
            "9.7.4",
            {},
            {"listen": True, "listen_for": ["app2"]},
        )


def test_wait_timeout_stays_above_the_pools_recycle():
    assert value(resolve({}, "mysql", "9.7.4", {}, {"wait_timeout_above": 3600}), "wait_timeout") > 3600
    with pytest.raises(PlanError, match="set mysql_wait_timeout to 4200"):
        resolve({"mysql_wait_timeout": 3600}, "mysql", "9.7.4", {}, {"wait_timeout_above": 3600})


def test_one_switch_with_two_names():
    result = resolve({"mysql_external_locking": True}, "mysql", "9.7.4", {}, {})
    named = [row["name"] for row in result["settings"]]
    assert "skip-external-locking" not in named
    assert named.count("external-locking") == 2
    with pytest.raises(PlanError, match="contradicts"):
        resolve(
            {"mysql_external_locking": True, "mysql_skip_external_locking": True}, "mysql", "9.7.4", {}, {}
        )


def test_extra_settings():
    result = resolve(
        {"mysql_extra_settings": {"innodb-io-capacity": 500, "skip_name_resolve": None}}, "mysql", "9.7.4"
    )
    assert rows(result)["innodb_io_capacity"]["file_value"] == "500"
    assert rows(result)["skip_name_resolve"]["file_value"] == ""
    for wrong, word in (
        ({"max_connections": 5}, "use mysql_max_connections instead"),
        ({"tx_isolation": "x"}, "use mysql_transaction_isolation instead"),
        ({"x y": 5}, "not the name"),
        ({"a": [1]}, "not one value"),
    ):
        with pytest.raises(PlanError, match=word):
            resolve({"mysql_extra_settings": wrong}, "mysql", "9.7.4")
    with pytest.raises(PlanError, match="not a dictionary"):
        resolve({"mysql_extra_settings": "a=1"}, "mysql", "9.7.4")


def test_too_many_connections_names_the_number_that_mends():
    with pytest.raises(PlanError) as caught:
        resolve({"mysql_max_connections": 100}, "mysql", "9.7.4", {}, {"connections": 130})
    assert caught.value.problems[0]["set_to"] == {"mysql_max_connections": 130}


# --- open files ------------------------------------------------------------------------------------------
def test_measured_requests():
    assert files.wanted("mysql", 3000, 4000, 16, 0) == 15000
    assert files.wanted("mariadb", 3000, 2000, 8, 0, cpus=2) == 35033
    assert files.shrunk("mysql", 10000, 3000, 4000, 16) == (3000, 3495, 16)


@given(
    flavor=st.sampled_from(["mysql", "mariadb"]),
    connections=st.integers(10, 100000),
    cache=st.integers(400, 200000),
    instances=st.integers(1, 64),
    minimum=st.integers(0, 100000),
    hard=st.one_of(st.none(), st.integers(1024, 2**20)),
    cpus=st.integers(1, 256),
)
def test_the_server_never_shrinks_what_is_declared(
    flavor, connections, cache, instances, minimum, hard, cpus
):
    found = files.derive(flavor, connections, cache, instances, minimum, hard, cpus=cpus)
    if hard is not None:
        assume(not found["short"])
        assert found["nofile"] <= hard
    asked = (connections, found["cache"], found["instances"])
    assert files.shrunk(flavor, found["nofile"], *asked, cpus=cpus) == asked
    if hard is None or hard >= files.wanted(flavor, connections, cache, instances, minimum, cpus=cpus):
        assert (found["cache"], found["instances"]) == (cache, instances)


@server
def test_files_that_the_host_cannot_give(flavor, version):
    with pytest.raises(PlanError) as caught:
        resolve({}, flavor, version, {"nofile_hard": 1024, "cpus": 2}, {})
    (problem,) = caught.value.problems
    assert problem["variable"] == "mysql_max_connections"
    assert "hard limit of 1024" in problem["message"]
    resolve(problem["set_to"], flavor, version, {"nofile_hard": 1024, "cpus": 2}, {})
    with pytest.raises(PlanError):  # and it is the most that passes
        more = {"mysql_max_connections": problem["set_to"]["mysql_max_connections"] + 1}
        resolve(more, flavor, version, {"nofile_hard": 1024, "cpus": 2}, {})


@pytest.mark.parametrize(
    ("flavor", "user"),
    [
        ("mysql", {"mysql_table_open_cache": 16000}),
        ("mariadb", {"mysql_table_open_cache_instances": 16, "mysql_table_open_cache": 2000}),
        ("mysql", {"mysql_open_files_limit": 65535}),
    ],
)
def test_an_explicit_cache_that_the_files_do_not_hold(flavor, user):
    version = dict(SERVERS)[flavor]
    with pytest.raises(PlanError) as caught:
        resolve(user, flavor, version, {"nofile_hard": 20000, "cpus": 2}, {})
    (problem,) = caught.value.problems
    resolve({**user, **problem["set_to"]}, flavor, version, {"nofile_hard": 20000, "cpus": 2}, {})


def test_open_files_limit_is_a_minimum():
    result = resolve({"mysql_open_files_limit": 12000}, "mysql", "9.7.4", {}, {})
    assert value(result, "open_files_limit") == 12000
    assert rows(result)["open_files_limit"]["compare"] == "at_least"
    assert result["limits"]["nofile"] == 15000


# --- memory ----------------------------------------------------------------------------------------------
HOST = st.sampled_from([1, 2, 4, 8, 16, 64, 256])


@given(
    server=st.sampled_from(SERVERS),
    memory_gib=HOST,
    connections=st.integers(0, 3000),
    others=st.integers(0, 2**31),
)
def test_an_accepted_plan_fits_the_memory(server, memory_gib, connections, others):
    demand = {"connections": connections, "memory_others": others}
    try:
        result = resolve({}, *server, {"memory_bytes": memory_gib * GIB}, demand)
    except PlanError as error:
        mend = error.problems[0]["set_to"]["budget_host_memory"]
        result = resolve({}, *server, {"memory_bytes": units.size(mend)}, demand)
    assert result["memory"]["total_bytes"] <= result["memory"]["room_bytes"]
    assert value(result, "max_connections") == 3000


@given(server=st.sampled_from(SERVERS), connections=st.integers(0, 3000))
def test_the_sum_agrees_with_a_naive_model(server, connections):
    result = resolve({}, *server, {"memory_bytes": 4096 * GIB}, {"connections": connections})
    kib = 1024
    each = {
        "mysql": (384 + 1024 + 256 + 256 + 1024 + 16 * 1024 + 4096) * kib,
        "mariadb": (160 + 192 + 2048 + 256 + 1024 + 16 * 1024 + 4096 + 256 * 1024) * kib,
    }[server[0]]
    whole = {
        "mysql": (420 + 256 + 25.6 + 16 + 8 + 1024) * 2**20,
        "mariadb": (96 + 256 + 25.6 + 16 + 8 + 128) * 2**20,
    }[server[0]]
    assert abs(result["memory"]["total_bytes"] - (whole + connections * each)) < 2
    assert not [row for row in result["settings"] if row["origin"] == "fit"]


@pytest.mark.parametrize("gib", [1, 2, 4, 16, 64])
@server
def test_lowered_in_the_stated_order(flavor, version, gib):
    result = resolve({}, flavor, version, {"memory_bytes": gib * GIB}, {"connections": 200})
    start = {row["name"]: row["value"] for row in resolve({}, flavor, version, {}, {})["settings"]}
    start.update(
        {"sort_buffer_size": (256 if flavor == "mysql" else 2048) * 1024, "join_buffer_size": 256 * 1024}
    )
    start["temptable_max_ram"] = GIB
    end = {**start, **{row["name"]: row["value"] for row in result["settings"]}}
    steps = [
        (name, floor)
        for name, floor in memory.ORDER
        if name != ("tmp_table_size" if flavor == "mysql" else "temptable_max_ram")
    ]
    begun = [
        i
        for i, (name, _) in enumerate(steps)
        if end[name] < min([start[name]] + [f for n, f in steps[:i] if n == name])
    ]
    for name, floor in steps[
        : max(begun, default=0)
    ]:  # everything before the last step begun is at its floor
        assert end[name] <= max(floor, 0), name
    if gib >= 4:
        assert end["innodb_buffer_pool_size"] == 256 * 2**20


def test_explicit_memory_is_kept_and_the_others_give_way():
    user = {"mysql_read_rnd_buffer_size": "4M"}
    result = resolve(user, "mariadb", "11.8.6", {"memory_bytes": 4 * GIB}, {"connections": 200})
    assert value(result, "read_rnd_buffer_size") == 4 * 2**20
    assert value(result, "tmp_table_size") < 256 * 2**20


@pytest.mark.parametrize(
    "user",
    [
        {"mysql_innodb_buffer_pool_size": "8G"},
        {"mysql_read_rnd_buffer_size": "64M"},
        {"mysql_innodb_buffer_pool_size": "3G", "mysql_read_rnd_buffer_size": "32M"},
        {
            "mysql_innodb_buffer_pool_size": "8G",
            "mysql_key_buffer_size": "8G",
            "mysql_sort_buffer_size": "64M",
        },
        {"mysql_fit": False},
    ],
)
@server
def test_what_does_not_fit_is_refused_and_the_mend_passes(flavor, version, user):
    host, demand = {"memory_bytes": 2 * GIB}, {"connections": 60}
    seen = 0
    while True:
        try:
            resolve(user, flavor, version, host, demand)
            break
        except PlanError as error:
            (problem,) = error.problems
            assert "2.0 GiB" in str(error) or "may be used" in problem["message"]
            user = {**user, **problem["set_to"]}
            seen += 1
    assert seen == 1


@server
def test_a_host_of_its_own_gets_sized_by_profile(flavor, version):
    sizes = []
    for gib in (4, 16, 64, 256):
        host = {"memory_bytes": gib * GIB, "cpus": 8}
        result = resolve({"mysql_profile": "sized"}, flavor, version, host, {"connections": 200})
        pool = value(result, "innodb_buffer_pool_size")
        assert result["memory"]["total_bytes"] <= result["memory"]["room_bytes"]
        assert pool % memory.CHUNK == 0
        sizes.append(pool)
    assert sizes == sorted(sizes)
    assert sizes[-1] > 0.6 * 256 * GIB
    kept = resolve(
        {"mysql_profile": "sized", "mysql_innodb_buffer_pool_size": "1G"}, flavor, version, host, {}
    )
    assert value(kept, "innodb_buffer_pool_size") == GIB


def test_without_known_memory_nothing_is_fitted_and_it_says_so():
    result = resolve({}, "mariadb", "11.8.6", {}, {"connections": 3000})
    assert "budget_host_memory" in result["warnings"][0]
    assert value(result, "read_rnd_buffer_size") == 16 * 2**20


# --- the file --------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def template(root):
    env = jinja2.Environment(  # noqa: S701 (a configuration file, not a page)
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(root / "templates"),
    )
    return env.get_template("mysqld.cnf.j2")


@server
def test_the_file_has_every_setting_once_and_names_every_departure(template, flavor, version):
    result = resolve(
        {"mysql_extra_settings": {"sync_binlog": 1}},
        flavor,
        version,
        {"memory_bytes": 2 * GIB},
        {"connections": 90},
    )
    text = template.render(mysql_resolved=result)
    assert text == template.render(mysql_resolved=result)
    section, found = "", {}
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, _, word = line.partition(" = ")
            assert (section, name) not in found
            found[section, name] = word
    assert found == {(row["section"], row["name"]): row["file_value"] for row in result["settings"]}
    for row in result["departures"]:
        assert row["reason"] in text
    assert max(len(line) for line in text.splitlines()) < 200


def test_mariadb_keeps_no_more_threads_than_connections():
    # Seen on MariaDB 10.11.18: thread_cache_size 300 with max_connections 250 runs as 250.
    lowered = resolve({"mysql_max_connections": 250}, "mariadb", "10.11.18")
    row = next(row for row in lowered["settings"] if row["name"] == "thread_cache_size")
    assert (row["value"], row["origin"]) == (250, "derived")
    kept = resolve({"mysql_max_connections": 250}, "mysql", "9.7.4")
    assert next(row for row in kept["settings"] if row["name"] == "thread_cache_size")["value"] == 300
    with pytest.raises(PlanError, match=r"mysql_thread_cache_size=300.*set mysql_thread_cache_size to 250"):
        resolve({"mysql_max_connections": 250, "mysql_thread_cache_size": 300}, "mariadb", "10.11.18")


# --- backups
def test_backups_turn_mariadbs_binary_log_on_and_leave_mysqls():
    for flavor, version, rows in (("mariadb", "11.8.6", ["binlog"]), ("mysql", "9.7.4", [])):
        plan = resolve({}, flavor, version, {}, {"binary_log": True})
        assert [row["file_value"] for row in plan["settings"] if row["name"] == "log_bin"] == rows
        plan = resolve({}, flavor, version, {}, {})
        assert not [row for row in plan["settings"] if row["name"] == "log_bin"]


@pytest.mark.parametrize("extra", [{"skip_log_bin": None}, {"log_bin": False}, {"log-bin": "OFF"}])
def test_backups_without_a_binary_log_are_refused(extra):
    with pytest.raises(PlanError) as caught:
        resolve({"mysql_extra_settings": extra}, "mysql", "9.7.4", {}, {"binary_log": True})
    assert "backups need the binary log" in str(caught.value)
