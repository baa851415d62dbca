"""A measured peak beside a matmul timed by the test itself."""

import time

import pytest
import torch

from common.work import Matmul
from training.metrics.measured_peak import measure_peak

CPU = torch.device("cpu")


def test_a_measured_peak_is_about_what_the_test_measures():
    matmul = Matmul("square", 512, 512, 512, count=7, left_transposed=True, right_transposed=True)
    left, right = torch.randn(512, 512), torch.randn(512, 512)

    def once():
        began = time.perf_counter()
        for _ in range(20):
            left @ right
        return 20 * 2 * 512**3 / (time.perf_counter() - began) / 1e12

    rates = [once() for _ in range(10)]
    found = measure_peak([matmul], torch.float32, CPU)
    # On a busy machine either may be several times slower.
    assert min(rates) / 10 < found["matrix_tflops"] < max(rates) * 10
    assert found["products"][0]["tflops"] == pytest.approx(found["matrix_tflops"])
    assert 1e8 < found["copy_bytes_per_second"] < 1e13
