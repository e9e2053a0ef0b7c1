"""A connection that stays with the thread that used it last: as good as idle for everybody else."""

import os
import random
import select
import sys
import threading
import time
from unittest import mock

import pytest
from django.db import OperationalError, connections
from djorm_pool.conf import Options
from djorm_pool.drivers.base import Driver
from djorm_pool.lease import Lease
from djorm_pool.pool import FairPool
from helpers import as_request, close, in_thread, pool, run, value, wait_for
from sqlalchemy import event


def parked(alias):
    """Two requests on this thread: from the second on its connection stays with it."""
    for _ in range(2):
        found = one(alias)
    assert len(pool(alias)._parked) == 1, "it did not stay"
    return found


def one(alias):
    """One request; the connection that served it."""
    name = "SELECT connection_id()"

    def work():
        found = value(alias, name)
        close(alias)
        return found

    return as_request(work)


def counts(alias):
    fair = pool(alias)
    return fair.checkedout(), fair.checkedin(), fair.counters["created"]


def test_it_is_idle_by_every_count_and_each_borrowing_is_counted(server):
    alias = server.alias(pool={"pool_size": 1})
    first = parked(alias)
    assert connections[alias].connection is None and counts(alias) == (0, 1, 1)
    assert one(alias) == first
    from djorm_pool import status

    row = status()[alias]
    assert (row["checked_out"], row["idle"], row["peak"], row["checkouts_total"]) == (0, 1, 1, 3)
    in_thread(one, alias)
    assert status()[alias]["checkouts_total"] == 4


def test_another_thread_takes_it_before_a_new_one_is_opened(server):
    alias = server.alias(pool={"pool_size": 5})
    first = parked(alias)
    assert in_thread(one, alias) == first
    assert one(alias) == first
    assert counts(alias) == (0, 1, 1)


def test_who_finds_none_free_takes_it_and_its_owner_waits(server):
    alias = server.alias(pool={"pool_size": 1, "timeout": 10})
    first = parked(alias)
    has, done, seen = threading.Event(), threading.Event(), []

    def other():
        seen.append(value(alias, "SELECT connection_id()"))
        has.set()
        done.wait(20)
        close(alias)

    thread = threading.Thread(target=as_request, args=(other,))
    thread.start()
    assert has.wait(10)
    waited = threading.Thread(target=lambda: (wait_for(lambda: pool(alias).waiting()), done.set()))
    waited.start()
    assert one(alias) == first == seen[0]
    thread.join()
    waited.join()
    assert pool(alias).counters["waits"] == 1 and counts(alias) == (0, 1, 1)


@pytest.mark.parametrize(
    "what",
    ["SET @mine = 1", "BEGIN", "autocommit", "an error", "an open cursor"],
)
def test_only_what_came_back_plainly_stays(server, what):
    alias = server.alias()
    parked(alias)
    wrapper = connections[alias]

    def work():
        if what == "autocommit":
            wrapper.set_autocommit(False)
        elif what == "an error":
            with pytest.raises(Exception, match="nothing"):
                run(alias, "SELECT * FROM nothing")
            wrapper.errors_occurred = True
        elif what == "an open cursor":
            cursor = wrapper.cursor()
            cursor.execute("SELECT 1")
            wrapper.held = cursor
        else:
            run(alias, what)
        close(alias)

    as_request(work)
    assert not pool(alias)._parked and counts(alias)[:2] == (0, 1)
    assert value(alias, "SELECT @mine") is None
    wrapper.held = None


@pytest.mark.parametrize(
    "options",
    [{"pessimistic": True}, {"reset": "always"}, {"leak_stack": True}, {"use_lifo": False}],
    ids=str,
)
def test_with_every_option_that_a_checkout_has_work_for(server, options):
    alias = server.alias(pool={**options, "pool_size": 1})
    numbers = {one(alias) for _ in range(4)}
    assert len(numbers) == 1
    assert len(pool(alias)._parked) == (options == {"use_lifo": False})
    assert pool(alias).checkouts() == 4


def test_one_that_the_server_closed_is_found_without_an_error(server):
    alias = server.alias()
    first = parked(alias)
    server.kill(first)
    wait_for(lambda: pool(alias)._parked and next(iter(pool(alias)._parked)).entry.poll(0))
    assert one(alias) != first
    assert pool(alias).counters["discarded"] == 1


def test_one_that_was_idle_for_long_is_pinged(server):
    alias = server.alias(pool={"ping_after_idle": 0.2})
    first = parked(alias)
    time.sleep(0.3)  # the idle time is what is tested
    assert one(alias) == first
    assert pool(alias).counters["pings"] == 1


def test_close_pool_closes_it(server):
    alias = server.alias()
    first = parked(alias)
    connections[alias].close_pool()
    wait_for(lambda: first not in server.connected())
    assert counts(alias) == (0, 0, 1)
    assert one(alias) != first


def test_close_pool_while_it_is_lent_closes_it_at_the_end(server):
    alias = server.alias()
    first = parked(alias)

    def work():
        assert value(alias, "SELECT connection_id()") == first
        in_thread(pool(alias).close_idle)
        close(alias)

    as_request(work)
    wait_for(lambda: first not in server.connected())
    assert counts(alias) == (0, 0, 1)


def test_one_opened_before_renew_file_changed_is_closed(server, tmp_path):
    file = tmp_path / "renewed"
    file.touch()
    alias = server.alias(pool={"renew_file": str(file)})
    first = parked(alias)
    os.utime(file, ns=(1, 1))
    assert one(alias) != first
    assert counts(alias) == (0, 1, 2)


def test_upkeep_closes_it_after_its_idle_time(server):
    alias = server.alias(pool={"idle_timeout": 0.3})
    first = parked(alias)
    wait_for(lambda: first not in server.connected())
    assert counts(alias) == (0, 0, 1)


def test_changed_settings_leave_it_to_others(server):
    alias = server.alias(pool={"pool_size": 3})
    first, fair = parked(alias), pool(alias)
    server.create(other := f"{server.settings()['NAME']}_other")
    connections[alias].settings_dict["NAME"] = other
    assert as_request(lambda: value(alias, "SELECT DATABASE()")) == other
    close(alias)
    assert (fair.checkedout(), fair.checkedin()) == (0, 1)
    assert first in server.connected()
    lease = Lease()
    assert fair.acquire(lease).thread_id() == first
    fair.release(lease)


def test_a_thread_that_ends_leaves_it_to_others(server, caplog):
    alias = server.alias(pool={"pool_size": 1})
    value(alias, "SELECT 1")
    close(alias)
    first = in_thread(parked, alias)
    assert one(alias) == first
    assert pool(alias).counters["reclaimed"] == 0 and not caplog.records


def test_listeners_of_sqlalchemy_hear_of_each_borrowing(server):
    alias = server.alias()
    parked(alias)
    heard = []
    event.listen(pool(alias), "checkout", lambda *_: heard.append("out"))
    event.listen(pool(alias), "checkin", lambda *_: heard.append("in"))
    one(alias)
    one(alias)
    assert heard == ["out", "in"] * 2


def test_a_child_leaves_it_to_its_parent(server):
    alias = server.alias()
    first = parked(alias)
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if one(alias) != first else 3)
        except BaseException:
            os._exit(4)
    assert os.waitpid(pid, 0)[1] == 0
    assert one(alias) == first


@pytest.mark.parametrize("where", ["poll", "park", "_at_most"])
def test_an_interruption_loses_no_place(server, where):
    alias = server.alias(pool={"pool_size": 1, "timeout": 2})
    parked(alias)
    fair = pool(alias)
    fair.peak = 0  # so that it has to be noted anew
    struck = next(iter(fair._parked)).entry if where == "poll" else fair
    with mock.patch.object(struck, where, side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        one(alias)
    assert in_thread(one, alias) and one(alias)
    assert counts(alias)[0] == 0 and len(fair._leases) + len(fair._idle) == 1
    wait_for(lambda: len(server.connected()) == 1)


class Pipe:
    """A connection that always is quiet."""

    def __init__(self):
        self.ends = os.pipe()

    def close(self):
        for end in self.ends:
            os.close(end)


class Pipes(Driver):
    def fileno(self, raw):
        return raw.ends[0]

    def in_transaction(self, raw):
        return False


def pipes(size, timeout):
    fair = FairPool(Pipes(), Options(pool_size=size, max_overflow=0, timeout=timeout), "pipes")
    fair.recipe = Pipe
    return fair


def test_one_whose_taker_was_interrupted_is_found_when_its_owner_has_gone():
    fair, other = pipes(1, 2), Lease()

    def leaves_one():
        lease = Lease()
        fair.acquire(lease)
        fair.park(lease)

    in_thread(leaves_one)
    with mock.patch.object(fair, "_leave", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        fair.acquire(other)
    assert not fair._parked and fair.checkedout() == 1
    other.renew()
    assert fair.acquire(other) and fair.checkedout() == 1 and len(fair._leases) == 1
    fair.release(other)
    fair.close_idle()


def test_who_goes_on_with_it_is_its_holder_whatever_thread_parked_it():
    fair, lease, owner = pipes(1, 2), Lease(), mock.Mock(allow_thread_sharing=False)
    owner._djorm_open_for = lambda lease: Pipe()
    in_thread(lambda: (lease.renew(), fair.acquire(lease, owner), fair.park(lease)))
    assert fair.resume(lease) and lease.thread is threading.current_thread()
    fair.reap()
    assert fair.lent() == [lease]
    fair.release(lease)
    fair.close_idle()


def test_waits_are_counted_at_once(server):
    alias = server.alias(pool={"pool_size": 1, "timeout": 10})
    fair, lease = pool(alias), Lease()
    one(alias)
    fair.acquire(lease)
    threading.Thread(target=lambda: (wait_for(fair.waiting), fair.release(lease))).start()
    value(alias, "SELECT 1")
    assert fair.longest_wait == fair.wait_seconds > 0


@pytest.mark.parametrize("name", ["close", "_close"])
def test_who_replaces_what_closes_is_asked(server, name):
    alias = server.alias()
    parked(alias)
    kind = type(connections[alias])
    original, called = getattr(kind, name), []

    def mine(self):
        called.append(name)
        return original(self)

    with mock.patch.object(kind, name, mine):
        one(alias)
    assert called == [name] and not pool(alias)._parked


@pytest.mark.parametrize("when", ["after the other began to wait", "while it is about to"])
def test_who_waits_gets_what_is_parked_at_that_moment(when):
    """Who parks looks for waiters after it, and who waits looks for what is parked: one of them sees it."""
    fair, one, other = pipes(1, 2), Lease(), Lease()
    raw = fair.acquire(one)
    take = fair._take

    def took(lease):
        found = take(lease)
        if not found and when == "while it is about to":
            fair.park(one)
        return found

    with mock.patch.object(fair, "_take", took):
        waits = threading.Thread(target=fair.acquire, args=(other,))
        waits.start()
        if when != "while it is about to":
            wait_for(fair.waiting)
            fair.park(one)
        waits.join(1.5)
    assert other.raw is raw and fair.checkedout() == 1 and not fair.resume(one)
    fair.release(other)
    fair.close_idle()


def test_whatever_threads_do_at_once_nobody_shares_one_or_waits_for_nothing():
    """Parking and going on take no lock: 12 threads on 3 connections, switched every few microseconds."""
    fair = pipes(3, 20)
    users, wrong, turns = {}, [], 1500
    resumed = [0] * 12

    def work(number):
        lease, draw = Lease(), random.Random(number)  # noqa: S311
        try:
            for _ in range(turns):
                if lease.parked and fair.resume(lease):
                    resumed[number] += 1
                else:
                    lease.renew()
                    fair.acquire(lease)
                raw = lease.raw
                if users.setdefault(raw, number) != number:
                    wrong.append(f"{number} and {users[raw]} have one connection")
                if draw.random() < 0.2:
                    select.select([], [], [], 0.0001)  # as one who waits for the server
                del users[raw]
                if draw.random() < 0.8 and fair.may_park(lease):
                    fair.park(lease)
                else:
                    fair.release(lease)
                if draw.random() < 0.5:
                    select.select([], [], [], draw.random() / 2000)
                if draw.random() < 0.005:
                    fair.close_idle()
        except BaseException as error:
            wrong.append(repr(error))

    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        assert not any(thread.is_alive() for thread in threads)
    finally:
        sys.setswitchinterval(before)
    assert not wrong, wrong[:3]
    assert fair.checkouts() == 12 * turns and sum(resumed) > turns / 10
    assert fair.peak == 3 and fair.checkedout() == fair.waiting() == 0
    assert fair.counters["timeouts"] == 0
    assert len(fair._open_entries) == fair.checkedin() <= 3
    fair.close_idle()
    assert not fair._open_entries


def test_a_pool_without_a_place_still_says_so(server):
    alias = server.alias(pool={"pool_size": 1, "timeout": 0.2})
    parked(alias)
    has, done = threading.Event(), threading.Event()

    def other():
        run(alias, "SELECT 1")
        has.set()
        done.wait(20)
        close(alias)

    thread = threading.Thread(target=as_request, args=(other,), name="the-other")
    thread.start()
    assert has.wait(10)
    with pytest.raises(OperationalError, match=r"1 of 1 connections are out.*the-other"):
        one(alias)
    done.set()
    thread.join()
    assert one(alias)
