#!/usr/bin/env python3
# ruff: noqa: E501 (a line a mutant)
"""Breaks the pool on purpose, one trap at a time, and expects that trap's tests to fail.

    tests/pool/mutants.py [T7 ...]      (POOL_TEST_SERVERS as for the tests; the mutants run on MariaDB)

Each mutant is a copy of the package with a few words replaced. Exit status 1 where a mutant survives.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "app" / "djorm_pool"
ALIAS_KEY = (
    "registry.py",
    "    pool = _pools.get(key)\n    if pool is None:\n        with",
    "    key = wrapper.alias\n    pool = _pools.get(key)\n    if pool is None:\n        with",
)
NO_CREATION = ("graft.py", '    for name in ("create_test_db",', '    for name in () and ("create_test_db",')

# trap: (tests to run, [(file, what, instead), ...])
MUTANTS = {
    "T1": ("test_t1_ and open", [ALIAS_KEY, NO_CREATION, ("graft.py", "        and cache[1] == params\n", "")]),
    "T2": ("test_t2_settings", [ALIAS_KEY]),
    "T2b": ("test_t2_what", [("graft.py", "            and self.options == settings[\"OPTIONS\"]\n", "")]),
    "T2c": ("test_t2_what", [("graft.py", "            and self.settings == _decisive(settings)\n", "")]),
    "T3": ("test_t3_", [("graft.py", "self.alias == NO_DB_ALIAS", "self.alias is None")]),
    "T4": ("test_t4_", [NO_CREATION]),
    "T5": ("test_t5_child_exits or test_t5_child_never", [("registry.py", "os.dup2(null, fd, inheritable=False)", "pass")]),
    "T5b": ("test_t5_child_never and use", [("registry.py", "after_in_child=_after_fork_in_child", "after_in_child=len")]),
    "T6": ("test_t6_fork_with", [("pool.py", "        self._local = threading.local()\n        self._fresh_state()\n", "        self._leases.clear()\n")]),
    "T7": ("test_t7_session", [("pool.py", '(flags & DIRTY and reset == "auto")', "False")]),
    "T7b": ("cursors_of_its_own", [("cursor.py", "    return TrackedCursor(cursor, wrapper, lease)", "    return cursor")]),
    "T7c": ("test_t7_session", [("cursor.py", "return kind(cursor.cursor, wrapper, lease)", "return cursor")]),
    "T8": ("test_t8_", [("drivers/mysql.py", "self._run(raw, command)", "pass")]),
    "T8b": ("test_t8_", [("drivers/mysql.py", "raw.set_sql_mode(sql_mode)", "pass")]),
    "T9": ("test_t9_reset", [("pool.py", "            self._evict_dead()\n            return False\n        return True", "            return True\n        return True")]),
    "T10": ("test_t10_unread_rows", [("drivers/mysql.py", "            return not unread", "            return True")]),
    "T11": ("test_t11_", [("graft.py", "raw, self.connection = self.connection, None", "raw = self.connection")]),
    "T12": ("test_t12_raw", [("pool.py", "if flags & TX or driver.in_transaction(raw)", "if driver.in_transaction(raw)")]),
    "T12b": ("test_t12_manual", [("pool.py", "if flags & TX or driver.in_transaction(raw)", "if flags & TX")]),
    "T13": ("test_t13_fatal", [("graft.py", "elif driver.is_fatal(error):", "elif False:"), ("graft.py", "if driver.is_failover(error):", "if False:")]),
    "T14": ("test_t14_no_place", [("pool.py", "            record.invalidate()\n        self._free(lease)\n\n    def _free", "            record.invalidate()\n\n    def _free")]),
    "T15": ("test_t15_strict", [("pool.py", "if first else self._waiters.append)", "if True else self._waiters.append)")]),
    "T16": ("test_t16_threads", [("pool.py", "not x.thread.is_alive()", "False")]),
    "T16b": ("test_t16_executor", [("release.py", "    return threading.current_thread() is not threading.main_thread()", "    return False")]),
    "T17": ("test_t17_the_final", [("pool.py", "OwnerRef(owner, self._orphans.append)", "OwnerRef(owner, lambda ref: self._count('leaks'))")]),
    "T18": ("test_t18_conn", [("graft.py", "                release.end(self)\n", "                original(self)\n"), ("graft.py", "self.close_at = time.monotonic()\n", "pass\n")]),
    "T19": ("test_t19_", [("drivers/mysql.py", 'raw.query("SELECT 1")\n', 'raw.query("START TRANSACTION WITH CONSISTENT SNAPSHOT")\n        raw.store_result()\n        raw.query("SELECT 1")\n'), ("drivers/mysql.py", "        if self.in_transaction(raw):\n            raw.rollback()\n", "")]),
    "T20": ("test_t20_", [("pool.py", "            idle = list(self._idle)\n            self._idle.clear()", "            idle = list(self._idle)\n            idle += [x.record for x in self._leases if x.record]\n            self._idle.clear()")]),
    "T21": ("test_t21_receivers", [("cursor.py", "self.wrapper._djorm_quiet", "self.wrapper._djorm_connecting")]),
    "T22": ("test_t22_two", [("registry.py", "freeze(driver.key_extras(wrapper)),", "")]),
    "T23": ("test_t23_what", [("release.py", "if lease.flags & (DIRTY | PIN | TX):", "if False:")]),
    "T23b": ("test_t23_asking", [("release.py", "    if lease.used or last is None:", "    if True:")]),
    "T24": ("test_t24_a_late", [("drivers/mysql.py", "        inner.connection = None\n", "")]),
    "T25": ("test_in_memory", [("drivers/sqlite3.py", "not wrapper.is_in_memory_db()", "True")]),
    "T26": ("test_t26_ and both", [("graft.py", 'if "_djorm_driver" in cls.__dict__:', "if False:"), ("graft.py", "        leftover = self._djorm_lease\n        if leftover is not None:", "        leftover = self._djorm_lease\n        if False:")]),
    "T27": ("test_t27_", [("registry.py", 'frozenset({"password", "passwd", "passfile", "sslpassword"})', "frozenset()")]),
    "T28": ("test_t28_", [("pool.py", "time.monotonic()", "time.time()"), ("lease.py", "time.monotonic()", "time.time()")]),
    "T29": ("test_t29_", [("pool.py", "elif self.driver.is_away(error):", "elif False:")]),
    "T30": ("test_t30_", [("pool.py", "0 < self.options.ping_after_idle < idle", "False")]),
    "T31": ("test_t31_", [("lease.py", "self.poll = poller.poll", "self.poll = lambda t: select.select([fd], [], [], 0)[0]")]),
    "T32": ("test_t32_", [("registry.py", "atexit.register(close_pools)", "atexit.register(lambda: os._exit(0))")]),
    "T33": ("test_t33_", [("__init__.py", "    graft_backend(vendor).djorm_pool_enabled = True", "    type('Pooled', (graft_backend(vendor),), {'djorm_pool_enabled': True})")]),
    "T34": ("test_t34_", [("conf.py", "    return dict(given)\n", '    given.setdefault("recycle", 3600)\n    return dict(given)\n')]),
    "T35": ("test_t35_", [("pool.py", "        except BaseException:\n            self._abort(lease)\n            raise\n        return raw", "        except Exception:\n            self._abort(lease)\n            raise\n        return raw")]),
    "T36": ("test_t36_", [("drivers/mysql.py", "or code in _FATAL", "or code > 1200")]),
    "R1": ("dies_before_commit", [("retry.py", "return driver.is_retryable(cause)", "return False")]),
    "R2": ("inside_another_block", [("retry.py", "durable=True", "durable=False")]),
    "R3": ("left_for_another", [("retry.py", "        connection.close()\n", "        pass\n")]),
    "R4": ("full_pool_is_not", [("retry.py", "isinstance(cause.__context__, PoolError)", "False")]),
    "R5": ("in_a_testcase", [("retry.py", "if connection.in_atomic_block or time", "if time")]),
    "R6": ("without_autocommit", [("retry.py", "not connection.in_atomic_block and not connection.get_autocommit()", "False")]),
    "P1": ("the_server_closed", [("pool.py", "                or not self._plainly_fit(lease.entry, now)\n", "")]),
    "P1b": ("idle_for_long", [("pool.py", "            and now - entry.used < self._unpinged\n", "")]),
    "P2": ("another_thread_takes_it", [("pool.py", "        if not idle:\n            self._gather(1)\n", "        if not idle:\n")]),
    "P3": ("who_waits", [("pool.py", "        self._gather(1)  # who parked", "        # who parked")]),
    "P4": ("close_pool_closes_it", [("pool.py", "            self._generation += 1\n            self._gather()\n", "            self._generation += 1\n")]),
    "P5": ("who_waits", [("pool.py", "            self._waiters\n            or entry.generation", "            entry.generation")]),
    "P6": ("whatever_threads", [("pool.py", "if self._parked.pop(lease, self) is None:  # from", "if self._parked.get(lease, self) is None:  # from")]),
    "P7": ("listeners_of_sqlalchemy", [("pool.py", "                or heard.checkout\n", "")]),
    "P8": ("interruption", [("release.py", "        pool.give_up(lease)  # where", "        pass  # where")]),
    "P9": ("interruption", [("graft.py", "                        lease.pool.give_up(lease)\n", "                        pass\n")]),
    "P10": ("idle_for_long", [("pool.py", "        with self._lock:  # whoever has taken it has finished then\n            self._unpark(lease)", "        with self._lock:\n            pass")]),
    "P13": ("taker_was_interrupted", [("pool.py", "        for lease in lost:\n            self._abort(lease)\n", "")]),
    "P14": ("whatever_thread_parked", [("pool.py", "        lease.thread = threading.current_thread()  # first: see reap()\n", "")]),
    "P15": ("replaces_what_closes", [("release.py", "        or type(self).close is not _stock_close\n        or type(self)._close", "        or type(self)._close")]),
    "P11": ("idle_by_every_count", [("pool.py", "        return len(self._leases) - len(self._parked)\n", "        return len(self._leases)\n")]),
    "P12": ("renew_file_changed", [("pool.py", "        if self._renews:\n            self._renew()\n        lease.thread", "        lease.thread")]),
}  # fmt: skip
ONLY = {
    "P13": "",
    "P14": "",
    "T3": "",
    "P3": "",
    "P5": "",
    "P6": "",
    "T29": " and mysql",
    "T25": "",
    "T34": " and mariadb",
}


def run(trap):
    """True where the tests caught the mutant."""
    tests, edits = MUTANTS[trap]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "djorm_pool"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for name, what, instead in edits:
            path = copy / name
            text = path.read_text()
            if what not in text:
                print(f"{trap:5} STALE    {name} has no {what!r}")
                return False
            path.write_text(text.replace(what, instead))
        where = ONLY.get(trap, " and mariadb")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout", "60"]
        command += ["--tb", "line", "-k", f"({tests}){where}", str(HERE)]
        env = {**os.environ, "POOL_TEST_PACKAGE": folder}
        done = subprocess.run(
            command, env=env, cwd=HERE.parents[1], capture_output=True, text=True, check=False
        )
    lines = done.stdout.strip().splitlines()
    ran = done.returncode in (0, 1) or "Timeout" in done.stdout + done.stderr
    if not ran:
        print(f"{trap:5} BROKEN   {lines[-3:]} {done.stderr[-300:]}")
        return False
    caught = done.returncode != 0 or " failed" in (lines or [""])[-1]
    why = next((line for line in lines if line.startswith(("E ", "FAILED")) or "Error" in line), lines[-1])
    print(f"{trap:5} {'caught  ' if caught else 'SURVIVED'} {tests}: {why[:150]}", flush=True)
    return caught


if __name__ == "__main__":
    chosen = sys.argv[1:] or list(MUTANTS)
    sys.exit(0 if all([run(trap) for trap in chosen]) else 1)
