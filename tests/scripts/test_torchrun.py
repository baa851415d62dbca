"""What scripts/torchrun.py ends with where its processes fail."""

import time

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from scripts import torchrun
from training.distributed.stop_signal import REQUEUE_EXIT_CODE
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


@pytest.mark.parametrize("status", [REQUEUE_EXIT_CODE, TARGET_MISSED_EXIT_CODE])
def test_a_stop_and_a_missed_target_have_their_status(monkeypatch, status):
    monkeypatch.setattr(torchrun, "run_torchrun", failing(status, -15))
    with pytest.raises(SystemExit) as ended:
        torchrun.main()
    assert ended.value.code == status


@pytest.mark.parametrize("later", [REQUEUE_EXIT_CODE, TARGET_MISSED_EXIT_CODE])
def test_other_failures_stay_what_they_are(monkeypatch, later):
    monkeypatch.setattr(torchrun, "run_torchrun", failing(1, later))
    with pytest.raises(ChildFailedError):
        torchrun.main()
