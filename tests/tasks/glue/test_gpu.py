"""run_glue on a GPU: the precisions beside each other, scores, a resume."""

import pytest
from glue_runs import command, make_inputs
from pretraining_runs import GPU_SHAPE, losses, summary

from run_glue import main

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("gpu"), "mnli", "sts-b", **GPU_SHAPE)


@pytest.fixture(scope="module")
def on_cpu(folder):
    for task in ("mnli", "sts-b"):
        main(command(folder, task, output_dir=folder / "cpu" / task, max_steps=20))
    return folder / "cpu"


@pytest.mark.parametrize("task", ["mnli", "sts-b"])
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("fp16", 2e-2), ("bf16", 5e-2)])
def test_precisions_follow_the_cpu(folder, on_cpu, task, precision, bound):
    output, changes = folder / precision / task, {"precision": precision, "max_steps": 20, "init_loss_scale": 2.0**8}
    main(command(folder, task, output_dir=output, no_cuda=None, **changes))
    assert losses(output) == pytest.approx(losses(on_cpu / task), rel=bound)
    measured = summary(output)
    assert measured["inference_sequences_per_second"] > 0
    if precision == "fp32" and task == "mnli":  # STS-B's is a correlation of predictions that are all but equal
        assert measured["score"] == pytest.approx(summary(on_cpu / task)["score"], abs=1e-3)


def test_a_stopped_run_goes_on(folder):
    for name, steps in (("straight", (None,)), ("stopped", (3, None))):
        for steps_this_run in steps:
            changes = {"steps_this_run": steps_this_run, "resume_from_checkpoint": True, "precision": "bf16"}
            main(command(folder, "mnli", output_dir=folder / name, no_cuda=None, **changes))
    assert losses(folder / "stopped") == pytest.approx(losses(folder / "straight"), rel=1e-2)
