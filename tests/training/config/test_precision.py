import pytest
import torch
from pretraining_runs import command, make_inputs

from run_pretraining import main
from training.config.precision import PRECISIONS, precision_problem, resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpu_of_capability(monkeypatch):
    def pretend(major, minor):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, minor))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")

    return pretend


def test_default_is_bf16_where_hardware_has_it_else_fp32(gpu_of_capability):
    assert resolve_precision(None, CPU).name == "fp32"
    gpu_of_capability(9, 0)
    assert resolve_precision(None, CUDA).name == "bf16"
    gpu_of_capability(7, 0)
    assert resolve_precision(None, CUDA).name == "fp32"


@pytest.mark.parametrize(
    ("name", "dtype", "matmul"),
    [
        ("fp32", torch.float32, "highest"),
        ("tf32", torch.float32, "high"),
        ("fp16", torch.float16, "highest"),
        ("bf16", torch.bfloat16, "highest"),
        ("fp8", torch.bfloat16, "highest"),
    ],
)
def test_each_precision_sets_dtype_and_products(name, dtype, matmul, gpu_of_capability, recwarn):
    gpu_of_capability(8, 9)
    precision = resolve_precision(name, CUDA)
    precision.apply()
    assert precision.compute_dtype == dtype
    assert torch.get_float32_matmul_precision() == matmul
    assert torch.backends.cuda.matmul.allow_tf32 == (name == "tf32")
    assert not recwarn.list


def test_a_run_in_fp32_is_not_in_the_tf32_of_an_earlier_one(tmp_path):
    torch.set_float32_matmul_precision("high")
    main(command(make_inputs(tmp_path), precision="fp32", max_steps=1, skip_checkpoint=True))
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("test", ["first", "next"])
def test_no_test_is_in_the_tf32_of_an_earlier_one(test):
    assert torch.get_float32_matmul_precision() == "highest"
    torch.set_float32_matmul_precision("high")


@pytest.mark.parametrize("name", ["tf32", "bf16"])
def test_old_gpus_are_named_with_what_they_lack(name, gpu_of_capability):
    gpu_of_capability(7, 5)
    problem = precision_problem(name, CUDA)
    lacks = "needs compute capability 8.0 or higher, and Some GPU has 7.5"
    assert str(problem) == f"--precision {name} {lacks}; use fp16 or fp32."


def test_fp8_needs_more_than_bf16(gpu_of_capability):
    gpu_of_capability(8, 0)
    lacks = "needs compute capability 8.9 or higher, and Some GPU has 8.0"
    assert str(precision_problem("fp8", CUDA)) == f"--precision fp8 {lacks}; use bf16."
    gpu_of_capability(9, 0)
    assert precision_problem("fp8", CUDA) is None


def test_fp16_runs_on_old_gpus(gpu_of_capability):
    gpu_of_capability(7, 0)
    assert precision_problem("fp16", CUDA) is None


def test_tf32_on_a_cpu_is_refused():
    assert "NVIDIA GPUs only" in str(precision_problem("tf32", CPU))
    assert precision_problem("bf16", CPU) is None
    assert PRECISIONS == ("fp32", "tf32", "fp16", "bf16", "fp8")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["fp32", "tf32", "fp16", "bf16"])
def test_products_on_a_gpu_have_the_error_of_their_format(name):
    precision = resolve_precision(name, CUDA)
    precision.apply()
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator, dtype=torch.float64) for _ in range(2))
    product = a.to(CUDA, precision.compute_dtype) @ b.to(CUDA, precision.compute_dtype)
    error = ((product.double().cpu() - a @ b).norm() / (a @ b).norm()).item()
    low, high = {"fp32": (0, 1e-5), "tf32": (5e-5, 2e-3), "fp16": (5e-5, 2e-3), "bf16": (5e-4, 1e-2)}[name]
    assert low < error < high
