"""The tables that are generated: `python -m planner.docs --check | --write`.

- roles/mysql/meta/argument_specs.yml: the options of the catalogue, between the marks
- README.md, docs/variables.md, roles/*/README.md, docs/capacity.md: whatever stands between
  `<!-- BEGIN generated NAME -->` and `<!-- END generated NAME -->`, where NAME is `catalogue`, `memory`,
  or `role ROLE`
"""

import argparse
import re
import sys
from pathlib import Path

import yaml

from planner import catalogue, memory, settings, units, versions
from planner.errors import PlanError

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "# BEGIN catalogue", "# END catalogue"
SPECS = ROOT / "roles" / "mysql" / "meta" / "argument_specs.yml"
PAGES = ("README.md", "docs/*.md", "roles/*/README.md")


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def catalogue_specs():
    """The options as lines of YAML, indented as in the file."""
    lines = [
        f"      {BEGIN} (generated: python -m planner.docs --write; the planner checks units and ranges)"
    ]
    for parameter in catalogue.CATALOGUE:
        lines.append(f"      {parameter.role_variable}:")
        kind = catalogue.spec_type(parameter)
        if parameter.type == "choice" and isinstance(parameter.choices[0], int):
            kind = "int"
        lines.append(f"        type: {kind}")
        if parameter.choices:
            lines.append("        choices: [" + ", ".join(str(choice) for choice in parameter.choices) + "]")
        about = parameter.about
        if parameter.article is not None:
            about += f" The article: {parameter.article}."
        lines += folded(about, 110, "        description: ")
    lines.append(f"      {END}")
    return "\n".join(lines) + "\n"


def folded(text, width, head):
    """`description:` as a folded block, so that nothing needs quoting."""
    lines, line = [head + ">-"], ""
    for word in text.split():
        if line and len(line) + len(word) + 11 > width:
            lines.append(" " * 10 + line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return [*lines, " " * 10 + line]


def with_specs(text):
    """The file's text with the generated section renewed (or put first among the options)."""
    section = catalogue_specs()
    found = re.search(rf"^ *{BEGIN}.*?^ *{END}\n", text, re.S | re.M)
    if found:
        return text[: found.start()] + section + text[found.end() :]
    found = re.search(r"^    options:\n", text, re.M)
    if not found:
        raise SystemExit(f"{SPECS}: has no options to put the catalogue under")
    return text[: found.end()] + section + text[found.end() :]


def cell(text):
    return str(text).replace("|", "\\|").replace("\n", " ")


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell(part) for part in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def catalogue_table():
    rows = []
    for parameter in catalogue.CATALOGUE:
        leaves = []
        for departure in parameter.departures:
            where = f" ({versions.NAMES[departure.flavor]})" if departure.flavor else ""
            value = (
                departure.value
                if not isinstance(departure.value, bool)
                else "ON"
                if departure.value
                else "OFF"
            )
            leaves.append(f"{value}{where}: {departure.reason}")
        rows.append(
            (
                f"`{parameter.role_variable}`",
                "-"
                if parameter.article is None
                else parameter.written(catalogue.article_value(parameter.name)),
                "; ".join(leaves) or "-",
                catalogue.spans(parameter, "mysql"),
                catalogue.spans(parameter, "mariadb"),
                parameter.kind,
            )
        )
    head = ("variable", "article", "departure by default", "MySQL 8.0 to 9", "MariaDB 10.6 to 12", "kind")
    return table(head, rows)


def options(role):
    path = ROOT / "roles" / role / "meta" / "argument_specs.yml"
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    return data["argument_specs"]["main"].get("options") or {}


def defaults(role):
    path = ROOT / "roles" / role / "defaults" / "main.yml"
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def role_table(role):
    rows, given = [], defaults(role)
    for name, option in options(role).items():
        if role == "mysql" and name in catalogue.BY_VARIABLE:
            continue
        default = option.get("default", given.get(name))
        about = option.get("description", "")
        about = " ".join(about) if isinstance(about, list) else about
        kind = option.get("type", "str")
        if option.get("choices"):
            kind = " \\| ".join(str(choice) for choice in option["choices"]).replace("\\|", "or")
        shown = "-" if default is None else f"`{yaml_inline(default)}`"
        rows.append((f"`{name}`", kind, shown, about))
    return table(("variable", "type", "default", "what it is"), rows)


def yaml_inline(value):
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).strip()
    return text.removesuffix("...").strip()


HOSTS = (1, 2, 4, 16, 64, 256)
FITTED = (
    "innodb_buffer_pool_size",
    "read_rnd_buffer_size",
    "tmp_table_size",
    "temptable_max_ram",
    "binlog_cache_size",
    "read_buffer_size",
    "sort_buffer_size",
    "join_buffer_size",
    "innodb_log_buffer_size",
)


def fits(flavor, connections, profile="article"):
    """A row a host: what its plan is, or why there is none."""
    rows = []
    for gib in HOSTS:
        host = {"memory_bytes": gib * units.GIB, "cpus": 4}
        try:
            plan = settings.resolve(
                {"mysql_profile": profile},
                flavor,
                versions.ASSUMED[flavor],
                host,
                {"connections": connections},
            )
        except PlanError as error:
            rows.append((f"{gib} GiB", "refused: " + error.problems[0]["message"], *["-"] * len(FITTED)))
            continue
        values = {row["name"]: row for row in plan["settings"]}
        total, room = plan["memory"]["total_bytes"], plan["memory"]["room_bytes"]
        row = [f"{gib} GiB", f"{units.human(total)} of {units.human(room)}"]
        for name in FITTED:
            known = values.get(name)
            if known is None:
                default = catalogue.BY_NAME[name].on(flavor).default
                here = catalogue.BY_NAME[name].exists(flavor, versions.parse(versions.ASSUMED[flavor]))
                row.append(default if here else "-")
            else:
                row.append(f"**{known['file_value']}**" if known["origin"] == "fit" else known["file_value"])
        rows.append(row)
    return rows


def memory_table():
    parts = []
    for flavor in versions.FLAVORS:
        for profile in settings.PROFILES:
            parts.append(
                f"{versions.NAMES[flavor]} {versions.ASSUMED[flavor]}, a host of its own, 200 connections, "
                f"profile `{profile}` (bold: changed to fit):\n"
            )
            head = ("host", "at most", *(f"`{name}`" for name in FITTED))
            parts.append(table(head, fits(flavor, 200, profile)))
    order = ", ".join(f"`{name}` (to {units.written(floor)})" for name, floor in memory.ORDER)
    return "\n".join(parts) + f"\nThe order of lowering, each to its floor before the next: {order}.\n"


def generated(name):
    if name == "catalogue":
        return catalogue_table()
    if name == "memory":
        return memory_table()
    if name.startswith("role "):
        return role_table(name.removeprefix("role "))
    raise SystemExit(f"nobody generates '{name}'")


_BLOCK = re.compile(r"(<!-- BEGIN generated ([a-z_ ]+) -->\n).*?(<!-- END generated \2 -->)", re.S)


def with_tables(text):
    return _BLOCK.sub(lambda found: f"{found[1]}\n{generated(found[2])}\n{found[3]}", text)


def run(write):
    """Names of files that are not as generated; with `write` they are renewed."""
    stale = []
    work = [(path, with_tables) for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    if SPECS.exists():
        work.insert(0, (SPECS, with_specs))
    for path, renew in work:
        before = path.read_text(encoding="utf-8")
        after = renew(before)
        if after != before:
            stale.append(str(path.relative_to(ROOT)))
            if write:
                path.write_text(after, encoding="utf-8")
    return stale


def main():
    parser = argparse.ArgumentParser(
        description="Tables generated from the argument specs and the catalogue."
    )
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--check", action="store_true", help="exit 1 where something is out of date")
    group.add_argument("--write", action="store_true", help="bring everything up to date")
    given = parser.parse_args()
    stale = run(given.write)
    for name in stale:
        print(f"{'written' if given.write else 'out of date (python -m planner.docs --write)'}: {name}")
    return 1 if stale and given.check else 0


if __name__ == "__main__":
    sys.exit(main())
