"""Files of points: lines that are none are named."""

import json

import pytest

from benchmark.sweeps.points import read_points
from common.errors import UserError


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("no JSON", "line 2 is not JSON"),
        ('{"schema": 2}', "line 2 has schema 2, and this version reads 1"),
        ("[]", "line 2 has schema None"),
        ('{"schema": 1, "status": "good"}', "line 2 has no status"),
    ],
)
def test_lines_that_are_no_points(tmp_path, line, complaint):
    good = {"schema": 1, "status": "failed", "configuration": {}}
    (tmp_path / "points.jsonl").write_text(f"{json.dumps(good)}\n{line}\n")
    with pytest.raises(UserError, match=complaint):
        read_points(tmp_path)
