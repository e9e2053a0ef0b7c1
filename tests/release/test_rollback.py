"""Back to a release that is kept (scenario `release`)."""

from __future__ import annotations

import fleet
from test_release import APP1, APP2, before, load, next_number, state  # noqa: F401 (fixtures)


def back(release: str = "") -> fleet.Play:
    return fleet.play("playbooks/rollback.yml", variables={"rollback_release": release}).finish()


def test_back_and_forth(before, load):  # noqa: F811
    first = fleet.release_of(APP1)
    fleet.make(next_number())
    assert fleet.deploy().status == 0
    second = fleet.release_of(APP1)
    assert first != second
    for release, serves in (("", first), (second, second), (first, first)):
        run = back(release)
        assert run.status == 0, run.text[-3000:]
        assert [fleet.release_of(host) for host in fleet.APPLICATIONS] == [serves, serves]
    run = fleet.deploy()
    assert run.status == 0, run.text[-3000:]
    assert fleet.release_of(APP2) == second


def test_what_is_not_kept_is_refused(before, load):  # noqa: F811
    run = back("0123456789ab")
    assert run.status != 0
    assert "keeps no release 0123456789ab; in service: " in run.text
    others = (
        "cd /srv/django-app/releases && for one in *; do [ $one = $(basename $(readlink ../current)) ] ||"
    )
    for host in fleet.APPLICATIONS:
        fleet.on(host, f"mkdir -p /root/away; {others} mv $one /root/away/; done")
    try:
        run = back()
        assert run.status != 0
        assert "keeps no release besides the one in service" in run.text
        assert state() == before
    finally:
        for host in fleet.APPLICATIONS:
            fleet.on(host, "mv /root/away/* /srv/django-app/releases/")
