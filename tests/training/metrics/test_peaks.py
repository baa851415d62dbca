"""Peaks by name, and utilization by hand."""

import pytest

from training.metrics.peaks import data_sheets, find_data_sheet, utilization


@pytest.mark.parametrize(
    ("name", "sheet", "precision", "tflops"),
    [
        ("Tesla V100-SXM2-16GB", "V100 SXM2", "fp16", 125.0),
        ("Tesla V100-SXM3-32GB", "V100 SXM2", "fp32", 15.7),
        ("Tesla V100-PCIE-32GB", "V100 PCIe", "fp16", 112.0),
        ("Tesla T4", "T4", "fp16", 65.0),
        ("NVIDIA A100-SXM4-40GB", "A100 40 GB SXM", "tf32", 156.0),
        ("A100-SXM4-80GB", "A100 80 GB SXM", "bf16", 312.0),
        ("NVIDIA A100 80GB PCIe", "A100 80 GB PCIe", "bf16", 312.0),
        ("NVIDIA A10", "A10", "bf16", 125.0),
        ("NVIDIA L4", "L4", "fp8", 242.5),
        ("NVIDIA L40S", "L40S", "bf16", 362.05),
        ("NVIDIA H100 80GB HBM3", "H100 SXM", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "H100 PCIe", "bf16", 756.5),
        ("NVIDIA H100 NVL", "H100 NVL", "bf16", 835.5),
        ("NVIDIA H200", "H200 SXM", "fp8", 1978.9),
        ("NVIDIA H200 NVL", "H200 NVL", "bf16", 835.5),
        ("NVIDIA GH200 480GB", "GH200", "bf16", 989.4),
        ("NVIDIA B200", "B200 SXM", "bf16", 2250.0),
        ("NVIDIA GB200", "GB200", "bf16", 2500.0),
    ],
)
def test_names_of_drivers(name, sheet, precision, tflops):
    found = find_data_sheet(name)
    assert (found.name, found.tflops[precision]) == (sheet, tflops)


@pytest.mark.parametrize(
    "name", ["NVIDIA GeForce RTX 4090", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA L40", "A1000", "", "NVIDIA H2000"]
)
def test_no_peak_is_guessed(name):
    assert find_data_sheet(name) is None
    assert utilization(100.0, [name], "bf16") is None


def test_figures_are_dense_and_in_proportion():
    for _, sheet in data_sheets():
        rates = sheet.tflops
        assert sheet.source.startswith("https://")
        assert rates.get("bf16", rates["fp16"]) == rates["fp16"]
        if "tf32" in rates:
            assert rates["fp16"] == pytest.approx(2 * rates["tf32"], rel=0.03)
        if "fp8" in rates:
            assert rates["fp8"] == pytest.approx(2 * rates["fp16"], rel=0.03)


def test_utilization_by_hand():
    found = utilization(989.4, ["NVIDIA H200", "NVIDIA H200"], "bf16")
    assert found["fraction"] == 0.5
    assert found["peak_tflops"] == 2 * 989.4
    assert found["peak"] == "H200 SXM data sheet, dense bf16"
    mixed = utilization(100.0, ["NVIDIA H200", "NVIDIA A10"], "bf16")
    assert mixed["peak_tflops"] == 989.4 + 125.0
    assert utilization(100.0, ["NVIDIA H200", "Some other"], "bf16") is None
    assert utilization(100.0, ["Tesla V100-SXM2-16GB"], "bf16") is None  # which it has not
    assert utilization(100.0, [], "bf16") is None
    assert utilization(100.0, [None], "fp32") is None  # a CPU
