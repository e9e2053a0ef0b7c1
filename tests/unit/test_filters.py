"""The thin adapter between Ansible and the planner."""

import importlib.util

import pytest
from ansible.errors import AnsibleFilterError


@pytest.fixture(scope="module")
def filters(root):
    spec = importlib.util.spec_from_file_location("planner_filters", root / "filter_plugins" / "planner.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_servers_settings(filters):
    run = filters.FilterModule().filters()["mysql_settings"]
    user = {"mysql_max_connections": 500, "mysql_app_password": "x", "other": 1}
    result = run(user, "mysql", "9.7.4", {"memory_bytes": 2**33}, {"connections": 50})
    assert {row["name"]: row["value"] for row in result["settings"]}["max_connections"] == 500


def test_every_problem_is_a_line(filters):
    user = {"mysql_max_connections": "many", "mysql_port": 0}
    with pytest.raises(AnsibleFilterError) as caught:
        filters.mysql_settings(user, "mysql", "9.7.4")
    lines = [line for line in str(caught.value).splitlines() if "; mend: " in line]
    assert len(lines) == 2


def test_a_plan_from_plain_hostvars(filters):
    hostvars = {"h": {"ansible_host": "192.0.2.1", "mysql_max_connections": 400, "unrelated": object()}}
    plan = filters.fleet_plan(hostvars, ["h"], ["h"], ["h"])
    assert plan["ok"], plan["errors"]
    assert plan["servers"]["h"]["max_connections"] == 400


def test_secrets_are_not_read(filters):
    hostvars = {"h": {"mysql_app_password": "{{ 1 / 0 }}", "django_app_secret_key": "hunter2"}}
    plan = filters.fleet_plan(hostvars, ["h"], ["h"])
    assert "hunter2" not in str(plan)
    assert not any("password" in text for text in plan["warnings"])


def test_a_secret_of_two_lines_is_refused_and_not_shown(filters):
    hostvars = {"h": {"mysql_app_password": "hunter2\n", "django_app_secret_key": "one line"}}
    plan = filters.fleet_plan(hostvars, ["h"], ["h"])
    (entry,) = plan["errors"]
    assert entry["variable"] == "mysql_app_password"
    assert "has a line break" in entry["message"]
    assert "hunter2" not in str(plan)


class Lazy(dict):
    """Like hostvars: raw values at once, templated ones on asking."""

    def raw_get(self, host):
        return {
            "mysql_max_connections": "{{ 100 * 5 }}",
            "django_app_threads": "{{ missing }}",
            "web_x": {"a": 1},
        }

    def __getitem__(self, host):
        class Templated(dict):
            def __missing__(self, key):
                if key == "django_app_threads":
                    raise KeyError("missing is undefined")
                return 500

        return Templated()


def test_templates_are_computed_and_what_cannot_be_yet_is_said(filters):
    plan = filters.fleet_plan(Lazy(), ["h"], ["h"])
    assert plan["servers"]["h"]["max_connections"] == 500
    assert any("django_app_threads cannot be computed yet" in text for text in plan["warnings"])


def test_what_cannot_be_computed_even_with_the_facts_is_refused(filters, monkeypatch):
    """Its default would be in the sums, and the host would get another value."""
    before = Lazy.raw_get
    facts = {"ansible_facts": {"memtotal_mb": 4096}}
    monkeypatch.setattr(Lazy, "raw_get", lambda self, host: before(self, host) | facts)
    plan = filters.fleet_plan(Lazy(), ["h"], ["h"])
    assert "django_app_threads" in [entry["variable"] for entry in plan["errors"]]
    assert "missing is undefined" in plan["refusal"]


@pytest.mark.parametrize(
    ("value", "answer"),
    [("{{ x }}", True), ("x", False), ([1, {"a": "{% if %}"}], True), ({"a": ["b"]}, False), (5, False)],
)
def test_where_a_template_is(filters, value, answer):
    assert filters.dynamic(value) is answer
