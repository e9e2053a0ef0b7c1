"""Memory: what a server may take at most by its parameters, and how the article's values are fitted.

    global = base + buffer pool x 1.1 + log buffer + key buffer + query cache
             + (MySQL: temptable_max_ram | MariaDB: Aria's page cache)
    each connection = base + thread_stack + sort + join + read + read_rnd + binlog cache
             + (MariaDB: one temporary table in memory, the smaller of tmp_table_size and max_heap_table_size)
    total  = global + connections x each connection + whatever else shares the host
             <= share x memory
`connections` is what may really come in (the accounts' limits, declared others, the reserve), not
max_connections. Sources are named in docs/capacity.md.
"""

from planner import units
from planner.units import KIB, MIB

SHARE = 0.8  # of the host's memory; the rest is the system's, the file cache's and safety
POOL_OVERHEAD = 10  # per cent: MySQL's manual, innodb_buffer_pool_size
# The server with nothing in its buffers: code, dictionary caches, MySQL's performance_schema.
# Measured: MySQL 9.7.4 with max_connections 3000 and a pool of 64M holds 482 MiB when idle (231 of it
# performance_schema), MariaDB 11.8.6 89 MiB.
BASE = {"mysql": 420 * MIB, "mariadb": 96 * MIB}
# A connection before its buffers: its descriptor, instrumentation and two network buffers of 16K.
BASE_CONNECTION = {"mysql": 384 * KIB, "mariadb": 160 * KIB}
CHUNK = 128 * MIB  # innodb_buffer_pool_chunk_size
ARIA_PAGE_CACHE = 128 * MIB  # MariaDB's default aria_pagecache_buffer_size

PER_CONNECTION = (
    "thread_stack",
    "sort_buffer_size",
    "join_buffer_size",
    "read_buffer_size",
    "read_rnd_buffer_size",
    "binlog_cache_size",
)
# What is lowered, in this order, each down to its floor before the next one is touched: first to the
# servers' own defaults, then to what is small but works; the buffer pool late, sorting last.
ORDER = (
    ("temptable_max_ram", 64 * MIB),
    ("tmp_table_size", 16 * MIB),
    ("read_rnd_buffer_size", 256 * KIB),
    ("sort_buffer_size", 256 * KIB),
    ("tmp_table_size", 1 * MIB),
    ("binlog_cache_size", 32 * KIB),
    ("read_buffer_size", 128 * KIB),
    ("join_buffer_size", 128 * KIB),
    ("innodb_log_buffer_size", 4 * MIB),
    ("innodb_buffer_pool_size", 64 * MIB),
    ("temptable_max_ram", 16 * MIB),
    ("sort_buffer_size", 64 * KIB),
    ("read_rnd_buffer_size", 64 * KIB),
    ("thread_stack", 512 * KIB),
)


def pool_taken(flavor, pool):
    """MySQL rounds the buffer pool up to whole chunks of 128M."""
    return units.up_to(pool, CHUNK) if flavor == "mysql" and pool > CHUNK else pool


def parts(flavor, values):
    """(rows of the whole server's memory, rows of one connection's), as (what, bytes)."""
    pool = pool_taken(flavor, values["innodb_buffer_pool_size"])
    whole = [
        ("the server itself", BASE[flavor]),
        ("innodb_buffer_pool_size", pool),
        ("its control structures", pool * POOL_OVERHEAD // 100),
        ("innodb_log_buffer_size", values["innodb_log_buffer_size"]),
        ("key_buffer_size", values["key_buffer_size"]),
    ]
    each = [("the connection itself", BASE_CONNECTION[flavor])]
    each += [(name, values[name]) for name in PER_CONNECTION]
    if flavor == "mysql":
        whole.append(("temptable_max_ram", values["temptable_max_ram"]))
    else:
        whole.append(
            ("aria_pagecache_buffer_size", values.get("aria_pagecache_buffer_size", ARIA_PAGE_CACHE))
        )
        whole.append(("query_cache_size", values.get("query_cache_size", 0)))
        # Either of the two bounds a temporary table in memory.
        each.append(("tmp_table_size", min(values["tmp_table_size"], values["max_heap_table_size"])))
    return whole, each


def total(flavor, values, connections, others=0):
    whole, each = parts(flavor, values)
    return sum(n for _, n in whole) + connections * sum(n for _, n in each) + others


def fit(flavor, values, connections, room, fixed=frozenset(), others=0, order=ORDER):
    """Lower what may be lowered until everything fits into `room`; {name: new value} in the order lowered.

    Each is halved (rounded to 64K) until the sum fits or its floor is reached.
    """
    lowered = {}
    values = dict(values)
    for name, floor in order:
        if total(flavor, values, connections, others) <= room:
            break
        if name in fixed or name not in values:
            continue
        if name == "temptable_max_ram" and flavor != "mysql":
            continue
        if name == "tmp_table_size":
            if flavor == "mysql":
                continue  # bounded together by temptable_max_ram
            both = [item for item in ("tmp_table_size", "max_heap_table_size") if item not in fixed]
        else:
            both = [name]
        while total(flavor, values, connections, others) > room:
            now = min(values[item] for item in both) if both else 0
            after = max(floor, now // 2)
            if not both or after >= now:
                break
            for item in both:
                values[item] = after
                lowered[item] = after
        # A half may be far too small: go up again as far as it fits, in steps that servers keep as they are.
        lowered.update(_refine(flavor, values, connections, room, others, both, lowered))
        values.update(lowered)
    return lowered


def _refine(flavor, values, connections, room, others, names, lowered):
    """The largest multiple of an eighth between the last half and its double that still fits."""
    names = [name for name in names if name in lowered]
    if not names or "innodb_buffer_pool_size" in names or total(flavor, values, connections, others) > room:
        return {}
    low = values[names[0]]
    step = low // 8 if low >= MIB else 0
    best = {}
    for eighths in range(1, 8) if step else ():
        trial = {**values, **dict.fromkeys(names, low + eighths * step)}
        if total(flavor, trial, connections, others) > room:
            break
        best = dict.fromkeys(names, low + eighths * step)
    return best


def table(flavor, values, connections, others=0, memory=None, share=SHARE):
    """The sum as plain data, for the report."""
    whole, each = parts(flavor, values)
    result = {
        "global": [{"what": what, "bytes": count} for what, count in whole],
        "per_connection": [{"what": what, "bytes": count} for what, count in each],
        "global_bytes": sum(count for _, count in whole),
        "each_bytes": sum(count for _, count in each),
        "connections": connections,
        "others_bytes": others,
    }
    result["total_bytes"] = result["global_bytes"] + connections * result["each_bytes"] + others
    result["memory_bytes"] = memory
    result["share"] = share
    result["room_bytes"] = None if memory is None else int(memory * share)
    return result
