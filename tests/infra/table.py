"""What the proof compared, as rows: host, check, what, declared, in the files, live, alike or not.

A test that compares many values says each with the fixture ``compare``; any other test is one row. The rows
are printed as a table, and written as JSON to the file that VERIFY_REPORT names.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

COLUMNS = ("host", "what", "declared", "file", "live")
HOLDS = "holds"


def rows_of(item, report) -> list[dict]:
    """The rows of one test that ran."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    host = parameters.get("name") or parameters.get("under_load") or ""
    own = {"host": host, "check": item.originalname.removeprefix("test_").replace("_", " ")}
    rows = [own | row for row in getattr(item, "rows", [])]
    if (report.failed and all(row["same"] for row in rows)) or not rows:
        others = [str(value) for key, value in parameters.items() if value != host]
        crash = getattr(report.longrepr, "reprcrash", None)
        live = (
            HOLDS if report.passed else str(crash.message if crash else report.longrepr).split("\nassert ")[0]
        )
        row = {"what": ", ".join([own["check"], *others]), "declared": HOLDS, "file": ""}
        rows.append(own | row | {"live": live.removeprefix("AssertionError: "), "same": report.passed})
    return rows


def shown(value, width: int) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= width else text[: width - 3] + "..."


def text(rows: list[dict]) -> list[str]:
    """Each row that differs, then a line for each check."""
    lines = []
    wrong = [row for row in rows if not row["same"]]
    if wrong:
        table = [COLUMNS, *([shown(row[column], 48) for column in COLUMNS[:-1]] for row in wrong)]
        widths = [max(len(line[number]) for line in table) for number in range(len(COLUMNS) - 1)]
        lives = ["live", *(shown(row["live"], 160) for row in wrong)]
        for line, live in zip(table, lives, strict=True):
            cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
            lines.append("  ".join([*cells, live]))
        lines.append("")
    compared = Counter(row["check"] for row in rows)
    differ = Counter(row["check"] for row in wrong)
    width = max(map(len, compared), default=0)
    lines.append(f"{'check'.ljust(width)}  compared  differ")
    lines += [
        f"{check.ljust(width)}  {count:8}  {differ[check] or '-':>6}" for check, count in compared.items()
    ]
    return lines


def write(path: str, rows: list[dict]) -> None:
    differ = sum(not row["same"] for row in rows)
    found = {"ok": bool(rows) and not differ, "compared": len(rows), "differ": differ, "rows": rows}
    Path(path).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
