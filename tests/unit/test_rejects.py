"""Wrong inventories, as data: each refused with the host, the variable, the value and a mend that mends."""

import pytest
from mending import mended
from rejects import BASES, CASES, inventory, said

from planner import errors, fleet


def test_there_are_enough():
    assert len(CASES) >= 40
    assert len({case["name"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("base", ["one", "fleet"])
def test_the_bases_are_fine(base):
    assert fleet.plan(BASES[base]["hosts"], BASES[base]["groups"])["errors"] == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_refused_with_the_words_and_mended_by_the_mend(case):
    hosts, groups = inventory(case)
    plan = fleet.plan(hosts, groups)
    assert not plan["ok"]
    assert said(case, plan["refusal"]), plan["refusal"]
    for entry in plan["errors"]:
        text = errors.line({**entry, "host": ""})
        assert entry["mend"] and text in plan["report"] and text in plan["refusal"]
    if case.get("by_hand"):
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
