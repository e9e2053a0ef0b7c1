"""The proof on the running system: shared by every molecule scenario and by `make verify`."""

import os

import pytest
import table
from declared import STARTS

ROWS = pytest.StashKey[list]()


def pytest_configure(config):
    config.stash[ROWS] = []


def pytest_collection_finish(session):
    for start in STARTS:
        start()


@pytest.fixture
def compare(request):
    """Compare one value: what it is, as declared, live, and in the files where it stands there too.

    The test goes on, and fails at its end where any row differs.
    """
    rows = request.node.rows = []

    def row(what, declared, live, file="", same=None):
        if same is None:
            same = declared == live and file in ("", declared)
        rows.append({"what": what, "declared": declared, "file": file, "live": live, "same": bool(same)})

    return row


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    done = yield
    wrong = [row for row in getattr(pyfuncitem, "rows", ()) if not row["same"]]
    assert not wrong, f"{len(wrong)} differ: {wrong}"
    return done


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if not report.skipped and (report.when == "call" or report.failed):
        item.config.stash[ROWS] += table.rows_of(item, report)
    return report


def pytest_terminal_summary(terminalreporter, config):
    for report in terminalreporter.getreports("error"):
        if report.when == "collect":
            terminalreporter.write_line(f"\n{report.longreprtext}")
    rows = config.stash[ROWS]
    if rows:
        terminalreporter.write_line("")
        for line in table.text(rows):
            terminalreporter.write_line(line)
    if os.environ.get("VERIFY_REPORT"):
        table.write(os.environ["VERIFY_REPORT"], rows)
