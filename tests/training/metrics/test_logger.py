"""Log lines as DLLogger writes them, and what a killed run leaves behind."""

import datetime
import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tqdm import tqdm

from common.errors import UserError
from training.metrics import logger as logger_module
from training.metrics.logger import MetricsLogger, read_log


def lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_lines_have_dlloggers_fields_in_dlloggers_order(tmp_path):
    path = tmp_path / "new" / "log.json"
    with MetricsLogger(path) as logger:
        logger.parameters({"learning_rate": 6e-3, "input_dir": tmp_path, "max_steps": 7038, "init_checkpoint": None})
        logger.metadata("step_loss", unit="nats", format=":.4f")
        logger.log((0, 5), {"step_loss": 10.25, "learning_rate": 1e-4})
        logger.log((), {"sequences_per_second": 12.5})
    texts = lines(path)
    assert all(text.startswith("DLLL {") for text in texts)
    parameter, metadata, step, summary = (json.loads(text[5:]) for text in texts)
    assert list(step) == ["timestamp", "datetime", "elapsedtime", "type", "step", "data"]
    assert (step["type"], step["step"], step["data"]) == ("LOG", [0, 5], {"step_loss": 10.25, "learning_rate": 1e-4})
    assert (parameter["type"], parameter["step"]) == ("LOG", "PARAMETER")
    assert parameter["data"] == {
        "learning_rate": 6e-3,
        "input_dir": str(tmp_path),
        "max_steps": 7038,
        "init_checkpoint": None,
    }
    assert metadata["type"] == "METADATA"
    assert (metadata["metric"], metadata["metadata"]) == ("step_loss", {"unit": "nats", "format": ":.4f"})
    assert summary["step"] == []
    # DLLogger writes all three as strings: seconds since 1970, local time, seconds since the logger was made.
    written = datetime.datetime.fromisoformat(step["datetime"])
    assert abs(written.timestamp() - float(step["timestamp"])) < 1e-3
    assert 0 <= float(step["elapsedtime"]) < 60


def test_addresses_are_logged_without_secrets(tmp_path):
    with MetricsLogger(tmp_path / "log.json") as logger:
        logger.parameters(
            {"command_line": "run.py --input 'https://u:PASSWORD@h/x'", "input_dir": "s3://b/x?SIGNATURE"}
        )
    (event,) = read_log(tmp_path / "log.json")
    assert event["data"] == {"command_line": "run.py --input 'https://h/x'", "input_dir": "s3://b/x"}


def test_each_line_is_on_disk_when_it_is_logged(tmp_path):
    with MetricsLogger(tmp_path / "log.json") as logger:
        logger.log((1,), {"loss": 1.0})
        assert len(lines(tmp_path / "log.json")) == 1


def test_every_value_becomes_valid_json(tmp_path):
    values = {
        "nan": math.nan,
        "tensor": torch.tensor(-math.inf),
        "numpy": np.float32(0.5),
        "integer": np.int64(3),
        "nested": {"list": [math.inf, (1, 2)], 3: True},
        "dtype": torch.bfloat16,
    }
    with MetricsLogger(tmp_path / "log.json") as logger:
        logger.log((1,), values)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    event = json.loads(lines(tmp_path / "log.json")[0][5:], parse_constant=refuse)
    assert event["data"] == {
        "nan": "NaN",
        "tensor": "-Infinity",
        "numpy": 0.5,
        "integer": 3,
        "nested": {"list": ["Infinity", [1, 2]], "3": True},
        "dtype": "torch.bfloat16",
    }
    assert math.isnan(float(event["data"]["nan"]))


def test_a_resumed_run_appends_after_a_torn_line(tmp_path):
    path = tmp_path / "log.json"
    with MetricsLogger(path) as logger:
        logger.log((1,), {"loss": 2.0})
    with path.open("a", encoding="utf-8") as file:
        file.write('DLLL {"timestamp": "17')
    with MetricsLogger(path) as logger:
        logger.log((2,), {"loss": 1.0})
    assert len(lines(path)) == 3
    assert [(event["step"], event["data"]["loss"]) for event in read_log(path)] == [([1], 2.0), ([2], 1.0)]


def test_a_line_that_a_full_disk_tore_spoils_no_other(tmp_path, monkeypatch):
    class Filling:
        name, written, room = "log.json", b"", 250

        def write(self, data):
            taken = data[: self.room - len(self.written)]
            if not taken:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.written += taken
            return len(taken)

        def close(self):
            (tmp_path / "log.json").write_bytes(self.written)

    disk = Filling()
    monkeypatch.setattr(logger_module, "_open_log", lambda path: disk)
    with MetricsLogger(tmp_path / "log.json", console=False) as logger:
        for step in range(1, 4):
            logger.log((step,), {"loss": 2.0})
        disk.room = 10**6
        logger.log((4,), {"loss": 1.0})
    assert [event["step"] for event in read_log(tmp_path / "log.json")] == [[1], [4]]


def test_a_log_may_go_to_a_pipe():
    read_end, write_end = os.pipe()
    with open(read_end, "rb"):
        with MetricsLogger(Path(f"/dev/fd/{write_end}"), console=False) as logger:
            logger.log((1,), {"loss": 2.0})
        os.close(write_end)
        assert b'"loss": 2.0' in os.read(read_end, 1000)


def test_lines_for_people_keep_off_the_progress_bar_and_numbers_stay_in_the_file(tmp_path, capsys):
    with MetricsLogger(tmp_path / "log.json") as logger, tqdm(total=3) as bar:
        logger.metadata("loss", format=":.3f")
        bar.update()
        logger.log((12,), {"loss": 7.12345})
        logger.message("step 12 is done")
    assert capsys.readouterr().out == "step 12 is done\n"
    assert read_log(tmp_path / "log.json")[-1]["data"] == {"loss": 7.12345}


def test_other_processes_of_a_run_write_nothing(capsys):
    with MetricsLogger(None, console=False) as logger:
        logger.parameters({"a": 1})
        logger.log((1,), {"loss": 1.0})
        logger.message("hello")
    assert capsys.readouterr().out == ""


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the log .*file/log\.json cannot be written"):
        MetricsLogger(tmp_path / "file" / "log.json")
