"""Repeats of a configuration: their median, and that those which ended otherwise are not hidden."""

from benchmark.sweeps.repeats import by_configuration


def test_repeats_belong_together():
    def point(size, rate, status="ok"):
        return {"status": status, "configuration": {"n": size}, "measured": {"sequences_per_second": rate}}

    points = [point(1, 5.0), point(2, 7.0), point(1, 3.0), point(1, 10.0), point(1, 0.0, "failed")]
    first, second = by_configuration(points).values()
    assert first.values("sequences_per_second") == [5.0, 3.0, 10.0]
    assert (first.median("sequences_per_second"), first.state) == (5.0, "ok, 1 failed")
    assert (second.median("sequences_per_second"), second.state) == (7.0, "ok")
    [alone] = by_configuration([point(1, 0.0, "failed")]).values()
    assert (alone.median("sequences_per_second"), alone.state) == (None, "failed")
