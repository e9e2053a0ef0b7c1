#!/usr/bin/env python3
# ruff: noqa: E501
"""Breaks the planner on purpose, one thing at a time, and expects the unit tests to fail.

    tests/unit/mutants.py [--fifth] [WORD ...]    (every fifth; those whose name has a WORD; all without)

A mutant is a copy of the planner with a few words replaced. Prints the rate; exit status 1 where one survives.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("planner", "filter_plugins", "templates", "roles", "docs", "tests/unit")
TESTS = ("units", "catalogue", "settings", "schema", "filters", "rejects", "fleet")

# name: (file, what stands there, what the mutant has instead)
MUTANTS = {
    "isolation level back to the default": ("planner/catalogue.py", '        "READ-COMMITTED",\n', '        "REPEATABLE-READ",\n'),
    "isolation: any level accepted": ("planner/catalogue.py", 'raise ValueError("is not one of "', 'return raw\n    raise ValueError("is not one of "'),
    "a size without a unit accepted": ("planner/units.py", 'raise ValueError("a size needs a unit', 'return int(word)\n        raise ValueError("a size needs a unit'),
    "max_connections 0 accepted": ("planner/catalogue.py", "if low is not None and value < low:", "if False:"),
    "two options swapped": ("planner/settings.py", 'option, text = parameter.option(self.flavor), parameter.written(value)', 'option, text = parameter.option(self.flavor), parameter.written(value)\n            option = {"read_buffer_size": "read_rnd_buffer_size", "read_rnd_buffer_size": "read_buffer_size"}.get(option, option)'),
    "an explicit value altered": ("planner/memory.py", "if name in fixed or name not in values:", "if name not in values:"),
    "max_connections lowered silently": ("planner/settings.py", "    def connections(self):\n", '    def connections(self):\n        self.put("max_connections", max(self.demand.get("connections", 0), 10), "fit", "lowered")\n'),
    "departure forgotten: thread_stack": ("planner/catalogue.py", '"1M",\n                "with 192K', '"192K",\n                "with 192K'),
    "departure forgotten: query cache": ("planner/catalogue.py", '"0",\n                "a size switches', '"64M",\n                "a size switches'),
    "gone parameters written all the same": ("planner/catalogue.py", "return where.since <= version and (where.until is None or version < where.until)", "return True"),
    "the redo log's total changed": ("planner/settings.py", "total = (size or article_size) * (count or article_count)", "total = size or article_size"),
    "tx_isolation not renamed": ("planner/catalogue.py", "version < (11, 1, 1)", "version < (10, 0, 0)"),
    "names of tables forced on existing data": ("planner/settings.py", "if there is not None and int(there) != article:", "if False:"),
    "listens on every address": ("planner/settings.py", "name, LOOPBACK, ", 'name, "*", '),
    "wait_timeout under recycle": ("planner/settings.py", "WAIT_MARGIN = 600", "WAIT_MARGIN = -600"),
    "wait_timeout not checked": ("planner/settings.py", "if above is not None and self.explicit[name] <= above:", "if False:"),
    "recycle equal to wait_timeout accepted": ("planner/settings.py", "self.explicit[name] <= above", "self.explicit[name] < above"),
    "files: the table cache not counted": ("planner/files.py", "return max(10 + connections + 2 * cache, ", "return max(10 + connections, "),
    "files: MariaDB's instances not counted": ("planner/files.py", "+ cpus + 2 * cache * instances", "+ cpus + 2 * cache"),
    "files: the hard limit ignored": ("planner/files.py", 'result["short"] = least - hard', "pass"),
    "LimitNOFILE shrunk": ("planner/settings.py", 'nofile = found["nofile"]', 'nofile = found["nofile"] // 2'),
    "memory: a buffer left out of the sum": ("planner/memory.py", '    "sort_buffer_size",\n    "join', '    "join'),
    "memory: temporary tables not counted": ("planner/memory.py", 'min(values["tmp_table_size"], values["max_heap_table_size"])', "0"),
    "memory: the whole host used": ("planner/settings.py", 'return int(self.host["memory_bytes"] * share)', 'return int(self.host["memory_bytes"] * 1.3)'),
    "memory: the buffer pool lowered first": ("planner/memory.py", "ORDER = (\n", 'ORDER = (\n    ("innodb_buffer_pool_size", 64 * MIB),\n'),
    "memory: the application not counted": ("planner/fleet.py", "others += self.applications[host.name].memory_taken", "pass"),
    "memory: fits by not adding": ("planner/memory.py", "connections * sum(n for _, n in each) + others", "sum(n for _, n in each) + others"),
    "overlap forgotten": ("planner/fleet.py", '* row["aliases"] * row["overlap"]', '* row["aliases"]'),
    "aliases forgotten": ("planner/fleet.py", '* row["aliases"] * row["overlap"]', '* row["overlap"]'),
    "max_overflow not counted": ("planner/fleet.py", 'max(0, row["pool_size"]) + max(0, row["max_overflow"])\n            row["connections"]', 'max(0, row["pool_size"])\n            row["connections"]'),
    "slack forgotten": ("planner/fleet.py", "slack = max(2, -(-pooled * self.slack_percent // 100))", "slack = 0"),
    "other users not counted": ("planner/fleet.py", 'max(0, _whole(user.get("connections"), 0))', "0"),
    "the administrators' reserve not counted": ("planner/fleet.py", '"connections": host.number("budget_reserve_connections"),', '"connections": 0,'),
    "services not counted": ("planner/fleet.py", 'for service in self.host.rows("django_app_services"):', "for service in []:"),
    "MAX_USER_CONNECTIONS without the commands": ("planner/fleet.py", '"total": pooled + self.management + slack,', '"total": pooled + slack,'),
    "the sum not held against max_connections": ("planner/settings.py", "if have is not None and want > have:", "if False:"),
    "an unbounded pool accepted": ("planner/fleet.py", "            if size >= 1:\n                continue", "            continue"),
    "unbounded overflow accepted": ("planner/fleet.py", "if application.max_overflow < 0:", "if False:"),
    "nginx time-out under a request's": ("planner/fleet.py", "if given > longest and given >= graceful:", "if True:"),
    "graceful time under a request's": ("planner/fleet.py", "if longest > graceful:", "if False:"),
    "misspelt names accepted": ("planner/schema.py", "        if option is None:\n", "        if option is None:\n            return []\n"),
    "types not checked": ("planner/schema.py", "            parsed = typed(value, option)", "            parsed = value"),
    "a secret shown": ("planner/errors.py", 'return HIDDEN', "return str(value)"),
    "TLS not asked of other hosts": ("planner/fleet.py", "tls = not application.same_host", "tls = False"),
    "one account for all hosts": ("planner/fleet.py", 'address = "localhost" if application.same_host else application.host.address("django_app")', 'address = "%"'),
    "a setting left out of the file": ("templates/mysqld.cnf.j2", "if row.group == group", "if row.group == group and row.name != 'back_log'"),
}  # fmt: skip


def run(name):
    """True where the tests fail, as they must."""
    file, old, new = MUTANTS[name]
    with tempfile.TemporaryDirectory() as folder:
        for part in COPIED:
            ignore = shutil.ignore_patterns("__pycache__", ".cache")
            shutil.copytree(ROOT / part, Path(folder) / part, ignore=ignore, dirs_exist_ok=True)
        for extra in ("pyproject.toml", "README.md"):
            if (ROOT / extra).exists():
                shutil.copy(ROOT / extra, folder)
        path = Path(folder) / file
        nearest = {"files": "settings", "memory": "settings", "mysqld.cnf": "settings"}.get(
            path.stem, path.stem
        )
        text = path.read_text(encoding="utf-8")
        if old not in text:
            raise SystemExit(f"mutant '{name}': {file} has no longer the words it replaces")
        path.write_text(text.replace(old, new), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
            + [f"tests/unit/test_{test}.py" for test in sorted(TESTS, key=lambda test: test != nearest)],
            cwd=folder, capture_output=True, text=True, check=False,
            env={**os.environ, "HYPOTHESIS_EXAMPLES": "30", "HYPOTHESIS_NO_SHRINK": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    return done.returncode == 1  # 1: tests ran and some failed


def main():
    words = [word.lower() for word in sys.argv[1:] if word != "--fifth"]
    names = list(MUTANTS)[:: 5 if "--fifth" in sys.argv else 1]
    names = [name for name in names if not words or any(word in name.lower() for word in words)]
    survived, begin = [], time.monotonic()
    for count, name in enumerate(names, 1):
        caught = run(name)
        print(
            f"[{count}/{len(names)}, {time.monotonic() - begin:.0f} s] {'caught  ' if caught else 'SURVIVED'} {name}",
            flush=True,
        )
        if not caught:
            survived.append(name)
    print(f"{len(names) - len(survived)} of {len(names)} mutants of the planner caught")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
