"""What the benches make of what they saw, and where they write it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
import chaos
import measured
from hosts import Answer


@pytest.mark.parametrize(
    ("began", "ended", "why"),
    [
        (9.9, 10.1, "in flight"),
        (9.9, 20.0, "time-out"),
        (10.4, 10.6, "in flight"),  # the blow takes half a second
        (10.6, 10.7, "neither"),
        (10.6, 20.7, "time-out"),
        (10.6, 20.5, "neither"),
    ],
)
def test_why_a_request_failed(began, ended, why):
    assert chaos.kind(Answer(began, ended, "HTTP 500", True), struck=10.0, cut=10.5) == why


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"stored": 99}, ["100 acknowledged, 99 stored, 0 doubled"]),
        ({"doubled": 1}, ["100 acknowledged, 100 stored, 1 doubled"]),
        ({"peak": 51}, ["51 connections, the budget is 50"]),
        (
            {"kinds": chaos.Counter({"neither": 2, "in flight": 3})},
            ["2 requests failed for no stated reason"],
        ),
        ({"kinds": chaos.Counter({"time-out": 2, "in flight": 3})}, []),
    ],
)
def test_what_makes_the_run_red(change, said):
    row = {"kinds": chaos.Counter(), "service": 0.0, "slowest": 0.1}
    row |= {"acknowledged": 100, "stored": 100, "doubled": 0, "peak": 50}
    assert chaos.Row(chaos.FAULTS[0], **(row | change)).wrong(50) == said


def test_a_measured_block_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- BEGIN measured x -->\nold\n<!-- END measured x -->\nb\n")
    for text in ("new", "newer"):
        measured.write("x", text, page)
    assert page.read_text() == "a\n<!-- BEGIN measured x -->\n\nnewer\n\n<!-- END measured x -->\nb\n"


def test_a_page_without_the_block_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a <!-- BEGIN measured x --> b\n")
    with pytest.raises(SystemExit, match="put both lines where the table belongs"):
        measured.write("x", "new", page)
    assert page.read_text() == "a <!-- BEGIN measured x --> b\n"


def test_every_table_of_the_chaos_run_has_its_place():
    page = measured.PAGE.read_text()
    for system in chaos.SYSTEMS:
        assert f"<!-- BEGIN measured chaos {system} -->" in page
