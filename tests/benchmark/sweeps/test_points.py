"""Files of points, whose lines that are none are named; and repeats, whose other ends are not hidden."""

import json

import pytest

from benchmark.sweeps.points import by_configuration, read_points
from common.errors import UserError


@pytest.mark.parametrize("line", ["no JSON", '{"schema": 2}', "[]", '{"schema": 1, "status": "good"}'])
def test_lines_that_are_no_points(tmp_path, line):
    good = {"schema": 1, "status": "failed", "configuration": {}}
    (tmp_path / "points.jsonl").write_text(f"\n{json.dumps(good)}\n\n")
    assert read_points(tmp_path) == [good]  # empty lines hide nothing
    (tmp_path / "points.jsonl").write_text(f"{json.dumps(good)}\n{line}\n")
    with pytest.raises(UserError, match="line 2 is no point of schema 1; remove the line"):
        read_points(tmp_path)


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
