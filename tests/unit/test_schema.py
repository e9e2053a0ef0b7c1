"""Names and types of variables against the roles' argument specs."""

import pytest
import yaml

from planner import catalogue, schema


@pytest.fixture(scope="module")
def checker(root):
    return schema.Checker(root)


def test_every_roles_specs_are_read(checker, root):
    for specs in root.glob("roles/*/meta/argument_specs.yml"):
        entry = yaml.safe_load(specs.read_text(encoding="utf-8"))["argument_specs"]["main"]
        assert set(entry.get("options") or {}) <= set(checker.options), specs


def test_every_option_has_its_roles_prefix(root):
    for specs in root.glob("roles/*/meta/argument_specs.yml"):
        entry = yaml.safe_load(specs.read_text(encoding="utf-8"))["argument_specs"]["main"]
        role = specs.parent.parent.name
        foreign = [name for name in entry.get("options") or {} if not name.startswith(role + "_")]
        assert foreign == [], specs


def test_literal_defaults_agree_with_the_specs(checker):
    for name, value in checker.defaults.items():
        if name in checker.options and value is not None:
            assert checker.check("h", name, value) == [], name


def test_the_catalogue_is_known_even_without_a_spec(checker):
    assert set(catalogue.BY_VARIABLE) <= set(checker.options)


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("mysql_innodb_bufer_pool_size", "mysql_innodb_buffer_pool_size"),
        ("django_app_pool_overflow", "django_app_pool_max_overflow"),
        ("budget_databases_hosts", "budget_database_hosts"),
        ("sandbox_host", "sandbox_hosts"),
        ("mysql_isolation_level", "mysql_transaction_isolation"),
    ],
)
def test_what_was_meant(checker, name, better):
    (entry,) = checker.check("h", name, "x")
    assert f"did you mean {better}?" in entry["message"]
    assert entry["set_to"] == {name: None, better: "x"}


@pytest.mark.parametrize(
    "name", ["ansible_host", "my_own_variable", "mysql_app_password", "budget_plan", "mysql_resolved"]
)
def test_what_is_not_ours_to_judge(checker, name):
    assert checker.check("h", name, "x") == []


def test_equal_values_are_judged_once_and_hosts_kept_apart(checker):
    first, second = (checker.check(host, "django_app_threads", "x") for host in ("a", "b"))
    assert (first[0]["host"], second[0]["host"]) == ("a", "b")
    assert (first[0]["on"], second[0]["on"]) == (["a"], ["b"])
    assert checker.check("a", "mysql_fit", True) == checker.check("a", "mysql_fit", "yes") == []
    assert checker.check("a", "budget_cpus", 1) == []
    assert checker.check("a", "budget_cpus", True) != []  # True is not 1


@pytest.mark.parametrize(
    ("value", "option", "fine"),
    [
        (5, {"type": "int"}, True),
        ("5", {"type": "int"}, True),
        ("5.5", {"type": "int"}, False),
        (True, {"type": "int"}, False),
        ("no", {"type": "bool"}, True),
        (2, {"type": "bool"}, False),
        (0.5, {"type": "float"}, True),
        ("nan", {"type": "float"}, False),
        ("x", {"type": "str"}, True),
        (5, {"type": "str"}, True),
        ({}, {"type": "str"}, False),
        ([1], {"type": "list", "elements": "int"}, True),
        (["a"], {"type": "list", "elements": "int"}, False),
        ("a,b", {"type": "list"}, False),
        ({"a": 1}, {"type": "dict", "options": {"a": {"type": "int"}}}, True),
        ({"b": 1}, {"type": "dict", "options": {"a": {"type": "int"}}}, False),
        ({}, {"type": "dict", "options": {"a": {"type": "int", "required": True}}}, False),
        ([{"a": "x"}], {"type": "list", "elements": "dict", "options": {"a": {"type": "int"}}}, False),
        ("a", {"type": "str", "choices": ["a", "b"]}, True),
        ("c", {"type": "str", "choices": ["a", "b"]}, False),
        ("anything", {"type": "raw"}, True),
    ],
)
def test_types(value, option, fine):
    assert schema.fine(value, option) is fine


def test_what_a_deployment_writes_into_the_environment_is_not_the_projects_to_set(root):
    """All of it but the folder for uploads, which a project may have elsewhere."""
    text = (root / "roles/django_app/vars/main.yml").read_text(encoding="utf-8")
    names = yaml.safe_load(text)
    ours = {*names["__django_app_environment"], *names["__django_app_secrets"]} - {"DJANGO_MEDIA_ROOT"}
    assert ours <= set(schema.ENVIRONMENT)
    assert set(schema.ENVIRONMENT.values()) <= set(schema.load(root)[0])
