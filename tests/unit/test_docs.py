"""What is generated is up to date, and stays itself when generated again."""

import yaml

from planner import catalogue, docs


def test_generated_parts_are_up_to_date():
    assert docs.run(write=False) == [], "python -m planner.docs --write"


def test_the_specs_list_every_parameter_with_its_type():
    text = "---\nargument_specs:\n  main:\n    options:\n      mysql_manage: {type: bool}\n"
    once = docs.with_specs(text)
    assert docs.with_specs(once) == once
    options = yaml.safe_load(once)["argument_specs"]["main"]["options"]
    assert set(options) == set(catalogue.BY_VARIABLE) | {"mysql_manage"}
    assert options["mysql_max_connections"]["type"] == "int"
    assert options["mysql_innodb_buffer_pool_size"]["type"] == "str"
    assert options["mysql_transaction_isolation"]["choices"][1] == "READ-COMMITTED"
    assert all(options[name]["description"] for name in catalogue.BY_VARIABLE)


def test_a_table_is_renewed_between_its_marks_only():
    page = "a\n<!-- BEGIN generated catalogue -->\nold\n<!-- END generated catalogue -->\nb\n"
    after = docs.with_tables(page)
    assert after.startswith("a\n") and after.endswith("\nb\n")
    assert "old" not in after
    assert after.count("`mysql_max_connections`") == 1
    assert docs.with_tables(after) == after


def test_the_memory_table_has_every_host():
    text = docs.memory_table()
    for gib in docs.HOSTS:
        assert f"| {gib} GiB |" in text
    assert "refused" not in text


def test_a_roles_table(root):
    text = docs.role_table("budget")
    assert "`budget_reserve_connections`" in text
    assert "| full or short or none | `full` |" in text
