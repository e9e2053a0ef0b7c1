"""The plan as a table that a person can read in a terminal."""

from planner import units
from planner.errors import line

MANY = 12  # application hosts from which equal ones are shown in one line


def text(plan):
    parts = []
    for name, server in plan["servers"].items():
        parts += connections(name, server, plan)
        parts += parameters(server)
    parts += pools(plan)
    parts += timeouts(plan)
    return "\n".join(parts + verdict(plan)).strip() + "\n"


def summary(plan):
    """The sum of connections and the verdict only."""
    parts = []
    for name, server in plan["servers"].items():
        parts += connections(name, server, plan)
    return "\n".join(parts + verdict(plan)).strip() + "\n"


def refusal(plan):
    """The problems alone."""
    return "\n".join(problems(plan)).strip() + "\n" if plan["errors"] else ""


def problems(plan):
    alike = {}  # what a group's variable does on each of its hosts is one line
    for entry in plan["errors"]:
        what = (entry["variable"], entry["value"], entry["message"], entry["mend"])
        alike.setdefault(what, []).append(entry)
    count = len(alike)
    parts = ["", f"REFUSED: {count} problem{'s' if count > 1 else ''}; no host was changed"]
    for entries in list(alike.values())[:50]:
        hosts = several([entry["host"] for entry in entries])
        parts.append(f"  - {line({**entries[0], 'host': hosts})}")
    if count > 50:
        parts.append(f"  - and {count - 50} more (plan.json has all)")
    return parts


def verdict(plan):
    parts = []
    if plan["warnings"]:
        alike = {}
        for entry in plan["warnings"]:
            host, _, what = entry.partition(": ")
            alike.setdefault(what, []).append(host)
        parts += ["", "To know"]
        parts += [f"  - {several(hosts)}: {what}" for what, hosts in list(alike.items())[:20]]
        if len(alike) > 20:
            parts.append(f"  - and {len(alike) - 20} more (plan.json has all)")
    return parts + (problems(plan) if plan["errors"] else ["", "This works out."])


def several(names):
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def row(left, middle, right):
    return f"  {left:<34} {middle:<50} {right:>8}".rstrip()


def grouped(rows):
    """Rows of many application hosts, equal ones in one line."""
    hosts = {}
    for entry in rows:
        hosts.setdefault(entry["host"], []).append(entry)
    shapes = {}
    for name, entries in hosts.items():
        shape = tuple((e["who"].split("@")[0], e["what"], e["sum"], e["connections"]) for e in entries)
        shapes.setdefault(shape, []).append(name)
    for shape, names in shapes.items():
        label = names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}"
        for user, what, total, count in shape:
            who = f"{user}@ {len(names)} hosts" if len(names) > 1 else f"{user}@{label}"
            more = f"{what}: {total}" if what else total
            if len(names) > 1:
                more = f"{more} x {len(names)} hosts"
            yield row(who, more[:50], count * len(names))


def connections(name, server, plan):
    head = f"{name}: connections"
    if server.get("assumed"):
        head += f", {server['assumed']}"
    parts = ["", head, row("account", "sum", "at most")]
    own = [
        entry for entry in server["connections"] if entry["host"] in plan["applications"] and entry["what"]
    ]
    rest = (
        [entry for entry in server["connections"] if entry not in own]
        if len(own) < 500
        else [entry for entry in server["connections"] if not entry["what"]]
    )
    if len({entry["host"] for entry in own}) > MANY:
        parts += list(grouped(own))
    else:
        parts += [row(e["who"], f"{e['what']}: {e['sum']}"[:50], e["connections"]) for e in own]
    parts += [row(e["who"], e["sum"], e["connections"]) for e in rest]
    limit, total = server["max_connections"], server["connections_total"]
    parts.append(row("together", f"of max_connections {limit} ({server['max_connections_origin']})", total))
    return parts


def parameters(server):
    resolved = server.get("resolved")
    if not resolved:
        return []
    parts = []
    memory = resolved["memory"]
    if memory:
        parts += ["", "  memory"]
        parts.append(
            row(
                "the whole server",
                ", ".join(e["what"] for e in memory["global"][1:3]) + ", ...",
                units.human(memory["global_bytes"]),
            )
        )
        parts.append(row("each connection", f"x {memory['connections']}", units.human(memory["each_bytes"])))
        if memory["others_bytes"]:
            parts.append(
                row("application, web and backups on this host", "", units.human(memory["others_bytes"]))
            )
        room = memory["room_bytes"]
        of = (
            f"of {units.human(room)} ({memory['share']:.0%} of {units.human(memory['memory_bytes'])})"
            if room
            else ("the host's memory is not known")
        )
        parts.append(row("together", of, units.human(memory["total_bytes"])))
        full = memory.get("at_max_connections_bytes")
        if full and room and full > room:
            parts.append(
                row("if others filled max_connections", "the accounts' limits prevent it", units.human(full))
            )
    backups = "on" if server.get("backup") else "off (backup_repository is not set)"
    parts += ["", f"  backups: {backups}"]
    files = resolved["limits"]
    hard = f"hard limit {files['hard']}" if files.get("hard") else "hard limit seen on the host"
    parts += ["", "  open files", row("LimitNOFILE", hard, files["nofile"])]
    disk = server.get("disk")
    if disk:
        parts += ["", "  disk, without the data"]
        parts.append(row("redo log", "", units.human(disk["redo_bytes"])))
        parts.append(
            row(
                "binary logs",
                "max_binlog_size, days and budget_write_rate",
                units.human(disk["binlog_bytes"]),
            )
        )
        parts.append(row("temporary tables", "", units.human(disk["temporary_bytes"])))
    parts += ["", "  not as the article has it"]
    left_out = {}
    for entry in resolved["departures"]:
        if entry["value"] is None:
            left_out.setdefault(entry["reason"], []).append(entry["name"])
            continue
        change = f"{'-' if entry['article'] is None else entry['article']} -> {entry['value']}"
        parts.append(f"  {entry['name']:<34} {change:<20} {entry['origin']}: {entry['reason']}")
    for reason, names in left_out.items():
        parts.append(f"  {', '.join(names)}: not written; {reason}")
    users = [entry for entry in resolved["settings"] if entry["origin"] in ("user", "derived")]
    if users:
        parts += ["", "  set, or derived"]
        for entry in users:
            where = entry.get("set_in") or entry["reason"]
            parts.append(f"  {entry['name']:<34} {entry['file_value']:<20} {entry['origin']}: {where}")
    return parts


def pools(plan):
    """The values behind the sums, and where each was set; equal hosts in one line."""
    shapes = {}
    for name, entry in plan["applications"].items():
        shape = tuple((key, entry[key], origin) for key, origin in entry["origins"].items())
        shapes.setdefault(shape, []).append(name)
    parts = ["", "processes and pools"] if shapes else []
    for shape, names in list(shapes.items())[:MANY]:
        set_ones = [f"{key} {value} ({origin})" for key, value, origin in shape if origin != "default"]
        rest = [f"{key} {value}" for key, value, origin in shape if origin == "default"]
        if rest:
            set_ones.append(", ".join(rest) + " (default)")
        parts.append(f"  {several(names)}: " + ", ".join(set_ones))
    if len(shapes) > MANY:
        parts.append(f"  and {len(shapes) - MANY} more shapes (plan.json has all)")
    return parts


def timeouts(plan):
    parts, shapes = [], {}
    web = min((entry["read_timeout"] for entry in plan["web"].values()), default=None)
    for name, entry in plan["applications"].items():
        shape = (entry["timeout"], entry["longest_request"], entry["recycle"], entry["server"])
        shapes.setdefault(shape, []).append(name)
    for (wait, longest, recycle, server), names in shapes.items():
        label = several(names)
        if not parts:
            parts += ["", "time-outs, in seconds"]
        proxy = f" < nginx {web}" if web else ""
        parts.append(f"  {label}: pool {wait} + lock {longest - wait} = request {longest}{proxy}")
        settings = ((plan["servers"].get(server) or {}).get("resolved") or {}).get("settings", ())
        idle = next((row["value"] for row in settings if row["name"] == "wait_timeout"), None)
        if idle:
            parts.append(f"  {label}: recycle {recycle} < wait_timeout {idle}")
    return parts
