"""Open files: what each server asks for at start, and what it shrinks when it gets less.

MySQL 8.0 to 9.x (sql/mysqld.cc, adjust_related_options):
    asks for  max(10 + max_connections + 2 x table_open_cache, 5 x max_connections, open_files_limit)
    then      max_connections   <= got - 10 - 2 x 400
              table_open_cache  <= max(400, (got - 10 - max_connections) / 2)
MariaDB 10.6 to 12 (sql/mysqld.cc, init_common_variables):
    needs     30 + max_connections + extra_max_connections + thread pool's descriptors
                 + 2 x table_open_cache x table_open_cache_instances
    asks for  max(that, 5 x (max_connections + extra_max_connections), open_files_limit)
    then      shrinks instances, max_connections and table_open_cache until they fit.
Both agree with what was measured: MySQL 9.7.4 with 3000 connections asks for 15000, and with 10000 files
lowers its table cache from 4000 to 3495; MariaDB 11.8.6 on two processors asks for 35033.
"""

MYSQL_CACHE_FLOOR = 400
MARIADB_CACHE_FLOOR = 200


def needed(flavor, connections, cache, instances, extra_connections=1, cpus=2):
    """Below this the server shrinks something that was asked for."""
    if flavor == "mysql":
        return max(10 + connections + 2 * cache, 10 + connections + 2 * MYSQL_CACHE_FLOOR)
    return 30 + connections + extra_connections + cpus + 2 * cache * instances


def wanted(flavor, connections, cache, instances, minimum=0, extra_connections=1, cpus=2):
    """What the server asks the system for: with this it does not even warn."""
    everybody = connections + (extra_connections if flavor == "mariadb" else 0)
    return max(
        needed(flavor, connections, cache, instances, extra_connections, cpus),
        5 * everybody,
        minimum or (5000 if flavor == "mysql" else 0),
    )


def shrunk(flavor, got, connections, cache, instances, extra_connections=1, cpus=2):
    """(max_connections, table_open_cache, instances) as the server itself makes them of `got` files."""
    if flavor == "mysql":
        connections = min(connections, got - 10 - 2 * MYSQL_CACHE_FLOOR)
        cache = min(cache, max((got - 10 - connections) // 2, MYSQL_CACHE_FLOOR))
        return connections, cache, instances
    floor = min(cache, MARIADB_CACHE_FLOOR)
    instances = min(max((got - 30 - connections) // 2 // cache, 1), instances)
    connections = max(min(got - 30 - floor * 2 * instances, connections), 10)
    room = (got - 30 - connections - extra_connections) // 2 // instances
    cache = min(max(room, MARIADB_CACHE_FLOOR), cache)
    return connections, cache, instances


def derive(
    flavor,
    connections,
    cache,
    instances,
    minimum,
    hard=None,
    fixed=frozenset(),
    extra_connections=1,
    cpus=2,
):
    """The caches that fit under the hard limit, and the limit to give the unit.

    `fixed` names what the user set: "cache", "instances", "minimum". Lowered first: MariaDB's instances
    (they multiply the cache), then the cache. Returns a dict; "short" is how many files are missing where
    even the smallest caches do not fit.
    """
    more = {"extra_connections": extra_connections, "cpus": cpus}
    result = {"cache": cache, "instances": instances, "short": 0}
    if hard is not None and needed(flavor, connections, cache, instances, **more) > hard:
        if flavor == "mariadb" and "instances" not in fixed:
            free = hard - needed(flavor, connections, 0, 0, **more)
            instances = max(1, min(instances, free // (2 * cache)))
        if "cache" not in fixed and needed(flavor, connections, cache, instances, **more) > hard:
            parts = 1 if flavor == "mysql" else instances
            empty = 10 + connections if flavor == "mysql" else needed(flavor, connections, 0, 0, **more)
            floor = MYSQL_CACHE_FLOOR if flavor == "mysql" else MARIADB_CACHE_FLOOR
            cache = max(min(floor, cache), min(cache, (hard - empty) // 2 // parts))
        result.update(cache=cache, instances=instances)
    least = needed(flavor, connections, result["cache"], result["instances"], **more)
    if "minimum" in fixed:
        least = max(least, minimum)
    if hard is not None and least > hard:
        result["short"] = least - hard
    most = wanted(flavor, connections, result["cache"], result["instances"], minimum, **more)
    result["nofile"] = most if hard is None else min(most, max(hard, least))
    result["wanted"] = most
    return result
