"""Choose, quarantine, purge rows, delete objects: on the real server, database and store."""

from __future__ import annotations

from tests.retention.conftest import World

OLD = {"rules": {"runs": {"olderThan": "90d"}}}


def test_an_old_run_is_quarantined_then_purged_with_everything_of_it(world: World) -> None:
    young = world.run(age=1)
    before, objects = world.counts(), len(world.objects())
    old = world.run()
    world.logged_model(old)

    first = world.retain(**OLD)
    assert first.total("quarantined") == {"run": 1}
    assert world.stage(old) == "deleted"
    again = world.retain(**OLD)
    assert not again.total("purged")
    assert world.exists(old), "the quarantine is not over"

    world.age_quarantine()
    report = world.retain(**OLD)
    assert report.total("purged") == {"run": 1}
    assert not report.problems
    assert not world.exists(old)
    assert world.stage(young) == "active"
    assert world.counts() == before
    assert len(world.objects()) == objects
    share = report.experiments[int(world.experiment)]
    assert (share.objects, share.bytes) == (4, 40)
    assert world.retain(**OLD).empty
