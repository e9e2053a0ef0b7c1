"""A measured block of a page: what stands between its two marks, written by the run that measured it."""

from __future__ import annotations

import os
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"


def machine(hosts: str) -> str:
    """What the figures were taken on. Call it first: what runs besides is part of them."""
    busy = os.getloadavg()[0]
    besides = f", which other work kept busy (load average {busy:.0f})" if busy >= 2 else ""
    return f"{os.cpu_count()} cores for {hosts}, load and controller{besides}"


def write(name: str, text: str, page: Path = PAGE) -> None:
    """Put TEXT between `BEGIN measured NAME` and `END measured NAME`."""
    begin, end = (f"<!-- {word} measured {name} -->" for word in ("BEGIN", "END"))
    before, found, rest = page.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise SystemExit(f"{page}: no {begin} ... {end}; put both lines where the table belongs")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
