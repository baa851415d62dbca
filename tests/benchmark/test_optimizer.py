"""benchmark/optimizer.py: its bytes are those that PyTorch's operations move, its table is arithmetic, and it runs."""

import json

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark import optimizer as benchmark
from common.errors import UserError

SIZE = 1000


class CountedBytes(TorchDispatchMode):
    """Adds up the bytes of all tensors as large as the weight that operations read or write."""

    def __init__(self):
        super().__init__()
        self.n_bytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        read = [tensor for argument in arguments for tensor in (argument if isinstance(argument, list) else [argument])]
        read = {tensor.data_ptr(): tensor for tensor in read if torch.is_tensor(tensor) and tensor.numel() == SIZE}
        in_place, copies = function._schema.name.endswith("_"), function._schema.name.endswith("copy_")
        if read and not function.is_view:
            self.n_bytes += 4 * SIZE * (len(read) + in_place - copies)
        return result


def test_bytes_are_those_that_the_operations_move():
    model = torch.nn.Linear(SIZE, 1, bias=False)
    model.weight.grad = torch.ones(1, SIZE)
    name = "LAMB, PyTorch's operations"
    step = benchmark.optimizer_step(name, model)
    step()  # makes the state
    with CountedBytes() as counted:
        step()
    assert counted.n_bytes == SIZE * 4 * sum(benchmark.CONTENDERS[name][2]) == SIZE * 128


def test_bytes_of_fused_steps_by_hand():
    # The norm reads g. Ours: reads g, p, m, v, writes m, v, u; reads p, u, writes p. apex: two norms more.
    by_hand = {"LAMB, our kernels": 4 * (1 + 4 + 3 + 2 + 1), "AdamW, PyTorch's fused": 4 * (1 + 2 + 4 + 3)}
    by_hand["AdamW, our kernels"] = 4 * (1 + 4 + 3)
    by_hand["LAMB, apex's fused"] = 4 * (1 + 1 + 4 + 3 + 2 + 2 + 1)
    assert {name: 4 * sum(benchmark.CONTENDERS[name][2]) for name in by_hand} == by_hand


def test_the_table_is_of_medians():
    lines = benchmark.table({"LAMB, our kernels": [0.5, 0.001, 0.002]}, 10**6, 88e9).splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == ["LAMB, our kernels", "44", "2", "1", "500", "22", "25.0%"]  # 44e6 bytes in 2 ms


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Measures once on a CPU, with a model that is small enough for Triton's interpreter; returns what is printed."""
    shape = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = tmp_path / "small.json"
    config.write_text(json.dumps({**shape, "intermediate_size": 64, "max_position_embeddings": 16}))
    monkeypatch.setattr(benchmark, "BERT_CONFIGS", {"small": config})
    monkeypatch.setattr(benchmark, "WARM_UPS", 1)

    def run() -> str:
        benchmark.main(["--bert_model", "small", "--steps", "1", "--windows", "1", "--device", "cpu"])
        return capsys.readouterr().out

    return run


def test_on_a_cpu_without_the_interpreter(run, monkeypatch):
    monkeypatch.setattr("optimization.triton_problem", lambda device: None if device.type == "cuda" else "they do not")
    printed = run()
    assert "Left out: LAMB, our kernels. the optimizers' kernels cannot run on cpu" in printed
    assert "| AdamW, PyTorch's fused " in printed
    assert "| LAMB, our kernels " not in printed
    assert "A copy reads and writes" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, tests compile kernels instead of interpreting them")
def test_in_the_interpreter(run):
    printed = run()
    for name in ("LAMB", "AdamW"):
        assert f"| {name}, our kernels " in printed
        assert f"Left out: {name}, our kernels" not in printed


def test_refused():
    with pytest.raises(UserError, match="--windows is 0"):
        benchmark.main(["--windows", "0"])
