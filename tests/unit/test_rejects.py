"""Wrong inventories, as data: each refused with the host, the variable, the value and a mend that mends."""

from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from mending import mended

from planner import errors, fleet

CASES = yaml.safe_load((Path(__file__).parent / "rejects.yml").read_text(encoding="utf-8"))
ONE = {"database": ["demo"], "application": ["demo"], "web": ["demo"]}
MANY = {"database": ["db1"], "application": ["app1", "app2"], "web": ["web1"]}
MANY_HOSTS = {
    "db1": {"ansible_host": "192.0.2.20"},
    "app1": {"ansible_host": "192.0.2.31"},
    "app2": {"ansible_host": "192.0.2.32"},
    "web1": {},
}
BASES = {
    "one": (ONE, {"demo": {}}),
    "fleet": (MANY, MANY_HOSTS),
    "two servers": ({**MANY, "database": ["db1", "db2"]}, {**MANY_HOSTS, "db2": {}}),
    "no server": ({**MANY, "database": []}, {k: v for k, v in MANY_HOSTS.items() if k != "db1"}),
}


def inventory(case):
    groups, hosts = deepcopy(BASES[case.get("base", "one")])
    for host, variables in case["set"].items():
        hosts[host] = {**hosts[host], **variables}
    return hosts, groups


def test_there_are_enough():
    assert len(CASES) >= 40
    assert len({case["name"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("base", [base for base in BASES if base not in ("two servers", "no server")])
def test_the_bases_are_fine(base):
    groups, hosts = BASES[base]
    assert fleet.plan(hosts, groups)["errors"] == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_refused_with_the_words_and_mended_by_the_mend(case):
    hosts, groups = inventory(case)
    plan = fleet.plan(hosts, groups)
    assert not plan["ok"]
    wanted = case["error"]
    found = [e for e in plan["errors"] if (e["host"], e["variable"]) == (wanted["host"], wanted["variable"])]
    assert found, plan["errors"]
    assert any(wanted["says"] in entry["message"] for entry in found), found
    for entry in plan["errors"]:
        text = errors.line(entry)
        assert entry["mend"] and text in plan["report"] and text in plan["refusal"]
    given = case["set"].get(wanted["host"], {}).get(wanted["variable"])
    if given is not None and not isinstance(given, dict | list):
        assert str(found[0]["value"]).startswith(str(given)) or found[0]["value"], found
    if case.get("mend") == "by hand":
        return
    for _ in range(4):  # a mend may uncover the next problem, never the same one
        after = mended(hosts, plan)
        assert after != hosts, plan["errors"]
        hosts, before = after, {(e["host"], e["variable"], e["message"]) for e in plan["errors"]}
        plan = fleet.plan(hosts, groups)
        assert not before & {(e["host"], e["variable"], e["message"]) for e in plan["errors"]}
        if plan["ok"]:
            return
    raise AssertionError(plan["errors"])
