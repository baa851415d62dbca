"""What scripts/torchrun.py ends with where its processes fail."""

import time

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from scripts import torchrun
from training.evaluation import TARGET_MISSED_EXIT_CODE


def failing(*statuses):
    """A torchrun whose ranks ended with these, one after the other."""
    failures = {
        rank: ProcessFailure(local_rank=rank, pid=1, exitcode=status, error_file="<none>")
        for rank, status in enumerate(statuses)
    }
    for rank, failure in failures.items():
        failure.timestamp = int(time.time()) + rank

    def run():
        raise ChildFailedError("run_pretraining.py", failures)

    return run


def test_a_missed_target_has_its_status(monkeypatch):
    monkeypatch.setattr(torchrun, "run_torchrun", failing(TARGET_MISSED_EXIT_CODE, -15))
    with pytest.raises(SystemExit) as ended:
        torchrun.main()
    assert ended.value.code == TARGET_MISSED_EXIT_CODE


def test_other_failures_stay_what_they_are(monkeypatch):
    monkeypatch.setattr(torchrun, "run_torchrun", failing(1, TARGET_MISSED_EXIT_CODE))
    with pytest.raises(ChildFailedError):
        torchrun.main()
