"""The wrong inventories of rejects.yml, for the unit test and for the scenario `reject`."""

from pathlib import Path

import yaml

_DATA = yaml.safe_load((Path(__file__).parent / "rejects.yml").read_text(encoding="utf-8"))
BASES, CASES = _DATA["bases"], _DATA["cases"]


def inventory(case):
    """(hosts with their variables, groups) of a case."""
    base = BASES[case.get("base", "one")]
    return {host: own | case["set"].get(host, {}) for host, own in base["hosts"].items()}, base["groups"]


def said(case, text):
    """Does a line of TEXT say what the case wants: host, variable, value, what is wrong, the mend?"""
    wanted = case["error"]
    given = case["set"].get(wanted["host"], {}).get(wanted["variable"])
    value = wanted.get("value", given)
    head = wanted["variable"] + ("" if value is None else f"={value}")
    for line in text.splitlines():
        said, _, mend = line.strip().removeprefix("- ").partition("; mend: ")
        hosts, _, rest = said.partition(": ") if wanted["host"] else ("", "", said)
        here = wanted["host"] in hosts.split(", ")  # a group's variable is one line for all its hosts
        if here and rest.startswith(f"{head}: ") and wanted["says"] in rest and wanted["mend"] in mend:
            return True
    return False
