"""Files of points: lines that are none are named."""

import json

import pytest

from benchmark.sweeps.points import read_points
from common.errors import UserError


@pytest.mark.parametrize("line", ["no JSON", '{"schema": 2}', "[]", '{"schema": 1, "status": "good"}'])
def test_lines_that_are_no_points(tmp_path, line):
    good = {"schema": 1, "status": "failed", "configuration": {}}
    (tmp_path / "points.jsonl").write_text(f"{json.dumps(good)}\n{line}\n")
    with pytest.raises(UserError, match="line 2 is no point of schema 1; remove the line"):
        read_points(tmp_path)
