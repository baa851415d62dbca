"""The table at the end of a run, against one that was worked out."""

from training.metrics.final_table import final_table

SUMMARY = {
    "measured_steps": 90,
    "step_seconds": 0.5081,
    "sequences_per_second": 2015.3,
    "tokens_per_second": 257_958.4,
    "sequences_per_second_per_gpu": 251.91,
    "model_tflops_per_second": 3412.0,
    "utilisation": {"fraction": 0.4312},
    "peak_memory_allocated_bytes": 44 * 2**30,
    "sequences_per_joule": 0.4567,
    "final_loss": 6.34361,
    "final_mlm_loss": 5.92371,
    "final_nsp_loss": 0.4199,
    "nonfinite_losses": 0,
    "skipped_steps": 2,
    "e2e_time": 33_120.0,
    "goodput": 0.934,
    "ranks": [{"seconds": 1.0}],
}
SCORES = {"masked LM": "14.63 % right, loss 6.2001", "next sentence": "55.10 % right, loss 0.6900"}
NAMES = ("loss", "mlm_loss", "nsp_loss")


def test_all_that_a_run_on_gpus_has():
    assert final_table(SUMMARY, SCORES, NAMES) == [
        "  training loss  6.3436 (mlm 5.9237, nsp 0.4199)",
        "  masked LM      14.63 % right, loss 6.2001",
        "  next sentence  55.10 % right, loss 0.6900",
        "  throughput     2,015 seq/s, 0.26 M tok/s",
        "  of each rank   252 seq/s",
        "  step           508 ms, over 90 steps",
        "  compute        3,412 TFLOP/s, 43.1% of peak",
        "  GPU memory     44.0 GiB at most",
        "  energy         0.457 seq/J",
        "  skipped steps  2",
        "  time           9 h 12 min, 93% of it in steps",
    ]


def test_what_was_not_measured_is_left_out_and_the_reason_said():
    summary = {"measured_steps": 0, "not_measured": "too short", "final_loss": 0.5, "e2e_time": 3.0}
    assert final_table(summary, {}, ("loss",)) == ["  training loss  0.5000", "  time           3.0 s", "too short"]


def test_a_cpu_has_gflops_and_no_peak():
    summary = {**SUMMARY, "utilisation": None, "model_tflops_per_second": 0.0123}
    assert "  compute        12.3 GFLOP/s" in final_table(summary, {}, NAMES)


def test_scores_alone():
    assert final_table({"f1": 1.0, "e2e_time": 12.0}, {"F1": "88.10 %"}, NAMES) == ["  F1    88.10 %", "  time  12 s"]
