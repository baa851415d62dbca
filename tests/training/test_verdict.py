"""What a throughput is worth, from numbers that the test makes up."""

import pytest

from training.metrics.logger import MetricsLogger
from training.verdict import verdict

H200 = "NVIDIA H200"


def judged(capsys, gpus, precision, measured, tflops=989.4, final_loss=2.0):
    """What is found, and what is printed."""
    summary = {"final_loss": final_loss, "model_tflops_per_second": tflops}
    return verdict(summary, 11.0, gpus, precision, measured, MetricsLogger(None)), capsys.readouterr().out


def test_shares_of_both_peaks(capsys):
    found, printed = judged(capsys, [H200, H200], "bf16", {"matrix_tflops": 800.0})
    assert found["loss_problem"] is None
    assert found["utilisation"]["fraction"] == 0.5
    assert found["measured_peak"] == {"matrix_tflops": 800.0, "fraction": 989.4 / 1600}
    assert printed.splitlines() == [
        "61.8% of what the encoder's matmuls reach alone",
        "50.0% of 1,978.8 TFLOP/s (H200 SXM data sheet, dense bf16)",
    ]


@pytest.mark.parametrize(
    ("peaks", "sentence"),
    [
        (([None], "fp32", {}), "the fp32 peak of this CPU is not known; --measure_peak measures one"),
        ((["Some GPU"], "bf16", {}), "the bf16 peak of Some GPU is not known"),
        (([H200], "fp8", {"matrix_tflops": 800.0}), "the matmuls ran in fp8 and in bf16"),
    ],
)
def test_no_utilization_is_guessed(capsys, peaks, sentence):
    found, printed = judged(capsys, *peaks)
    assert found == {"loss_problem": None, "utilisation": None}
    assert sentence in printed


def test_without_a_throughput_only_the_loss_is_judged(capsys):
    found, printed = judged(capsys, [H200], "bf16", {}, tflops=None, final_loss=13.0)
    assert found.keys() == {"loss_problem"}
    assert printed == f"warning: {found['loss_problem']}\n"


@pytest.mark.parametrize(
    ("final", "is_wrong"), [(11.0, False), (1.3, False), (12.01, True), (float("nan"), True), (None, False)]
)
def test_a_fast_wrong_run_is_said_to_be_wrong(final, is_wrong):
    problem = verdict({"final_loss": final}, 11.0, [None], "fp32", {}, MetricsLogger(None))["loss_problem"]
    assert ("a model that guesses has 11.000" in str(problem)) == is_wrong
