"""LAMB's and AdamW's kernels against fp64 ones: values, places in memory, state, and what is refused."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_lamb import BETA1, BETA2, EPS, NaiveLamb, clipped, module_of
from tuned import tune

from common.errors import UserError
from kernels import optimizers, tuning
from kernels.optimizers import GroupUpdate, make_tables
from optimization import LAMB, AdamW, build_optimizer, clip_and_step, gradient_norm, parameter_groups

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CHUNK, TILE = 128, 64  # so that small weights have several chunks, and chunks several tiles
SHAPES = {
    "several_chunks.weight": (20, 17),
    "whole_chunks.weight": (8, 32),
    "one.weight": (1, 1),
    "query_key_value.weight": (6, 65),  # blocks of 130: the second begins within a vector, none ends with a chunk
    "zero.weight": (3, 2),
    "LayerNorm.weight": (65,),
    "dense.bias": (7,),
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    tune(monkeypatch, "adam_pass", chunk=CHUNK, tile=TILE)
    tune(monkeypatch, "lamb_second_pass", tile=TILE)


def named_parameters(shapes=SHAPES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    parameters = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if "zero.weight" in parameters:
        parameters["zero.weight"].zero_()
    return {name: torch.nn.Parameter(value.to(DEVICE)) for name, value in parameters.items()}


def random_gradients(shapes=SHAPES, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(100 + seed)
    return {name: torch.randn(shape, generator=generator) * scale for name, shape in shapes.items()}


class PyTorchAdamW:
    """`torch.optim.AdamW` in float64, after clipping; looks like `NaiveLamb`."""

    def __init__(self, parameters, lr, max_norm=1.0):
        self.max_norm = max_norm
        self.parameters = {name: torch.nn.Parameter(p.detach().double().cpu()) for name, p in parameters.items()}
        groups = parameter_groups(module_of(self.parameters))
        self.optimizer = torch.optim.AdamW(groups, lr, betas=(BETA1, BETA2), eps=EPS, foreach=False)

    def step(self, gradients):
        gradients, norm = clipped(gradients, self.max_norm)
        for name, parameter in self.parameters.items():
            parameter.grad = gradients.get(name)
        self.optimizer.step()
        return norm

    def parameter(self, name):
        return self.parameters[name].detach()


REFERENCES = [(LAMB, NaiveLamb), (AdamW, PyTorchAdamW)]


def new_optimizer(optimizer_class, parameters, kernels="triton", lr=0.02):
    return optimizer_class(parameter_groups(module_of(parameters)), lr, kernels=kernels)


def new_lamb(parameters):
    return new_optimizer(LAMB, parameters)


def train(parameters, optimizer, gradients, max_norm=1.0, loss_scale=1.0):
    """A step with these gradients, which backward would have made `loss_scale` times as large."""
    for name, parameter in parameters.items():
        parameter.grad = None if gradients.get(name) is None else (gradients[name] * loss_scale).to(DEVICE)
    norm = gradient_norm(optimizer.param_groups) / loss_scale
    clip_and_step(optimizer, norm, max_norm, loss_scale)
    return norm


def assert_close(parameters, naive, rtol=5e-6, atol=5e-7):
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.detach().double().cpu(), naive.parameter(name), rtol=rtol, atol=atol)


@pytest.mark.parametrize(("optimizer_class", "reference"), REFERENCES)
@pytest.mark.parametrize(
    ("scale", "max_norm", "loss_scale"),
    [(0.001, 1.0, 1.0), (30.0, 1.0, 2.0**12), (0.1, math.inf, 1024.0), (0.1, math.inf, 1.0)],
)
def test_they_equal_those_in_fp64_over_steps(optimizer_class, reference, scale, max_norm, loss_scale):
    parameters = named_parameters()
    expected, optimizer = reference(parameters, 0.02, max_norm), new_optimizer(optimizer_class, parameters)
    for step in range(3):
        gradients = random_gradients(scale=scale * (1 + step), seed=step)
        norm = train(parameters, optimizer, gradients, max_norm, loss_scale)
        assert norm.item() == pytest.approx(expected.step(gradients), rel=1e-6)
        assert_close(parameters, expected)


@pytest.mark.parametrize(("optimizer_class", "reference"), REFERENCES)
@settings(max_examples=6, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), min_size=1, max_size=3),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    chunk=st.sampled_from([32, 64, 256]),
    exponent=st.floats(-6, 4),
)
def test_they_equal_those_in_fp64_for_any_shapes(optimizer_class, reference, shapes, rows, columns, chunk, exponent):
    named = {f"{number}.weight": shape for number, shape in enumerate(shapes)}
    named |= {"query_key_value.weight": (3 * rows, columns), "query_key_value.bias": (3 * rows,)}
    parameters = named_parameters(named, seed=rows)
    expected = reference(parameters, 0.02)
    optimizer = new_optimizer(optimizer_class, parameters)
    with pytest.MonkeyPatch.context() as patch:
        tune(patch, "adam_pass", chunk=chunk, tile=32)
        tune(patch, "lamb_second_pass", tile=32)
        for step in range(2):
            gradients = random_gradients(named, 10**exponent, seed=step)
            train(parameters, optimizer, gradients)
            expected.step(gradients)
    assert_close(parameters, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("optimizer_class", "reference"), REFERENCES)
def test_the_sizes_that_are_used_give_the_same(monkeypatch, optimizer_class, reference):
    in_use = tuning.row_of(None)
    monkeypatch.setattr(tuning, "row", lambda device: in_use)
    shapes = {"long.weight": (3, 4096), "query_key_value.weight": (6, 2048), "long.bias": (9001,)}
    parameters = named_parameters(shapes)
    expected = reference(parameters, 0.02)
    optimizer = new_optimizer(optimizer_class, parameters)
    for step in range(2):
        gradients = random_gradients(shapes, seed=step)
        train(parameters, optimizer, gradients)
        expected.step(gradients)
    assert_close(parameters, expected)


@pytest.mark.parametrize("shift", [0, 1, 2, 3])
def test_tensors_lie_anywhere_and_their_neighbours_stay(shift):
    # Where a gradient begins wherever the last one ended.
    shapes = [(8, 16), (5, 31), (1,), (2, 64)]
    sizes = [math.prod(shape) for shape in shapes]
    generator = torch.Generator().manual_seed(1)
    flat = torch.randn(2, shift + sum(sizes) + 1, generator=generator).to(DEVICE)
    before = flat.clone()
    views = [[part.view(shape) for part, shape in zip(row[shift:-1].split(sizes), shapes, strict=True)] for row in flat]
    parameters = {f"{number}.weight": torch.nn.Parameter(view) for number, view in enumerate(views[0])}
    gradients = {name: view.cpu() for name, view in zip(parameters, views[1], strict=True)}
    naive = NaiveLamb(parameters, 0.02, math.inf)
    naive.step({name: gradient.clone() for name, gradient in gradients.items()})
    for parameter, view in zip(parameters.values(), views[1], strict=True):
        parameter.grad = view
    new_lamb(parameters).step()
    assert_close(parameters, naive)
    outside = [*range(shift), -1]
    assert torch.equal(flat[:, outside], before[:, outside])


def test_the_same_input_gives_the_same_bits():
    results = []
    for _ in range(2):
        parameters = named_parameters()
        optimizer = new_lamb(parameters)
        for step in range(2):
            train(parameters, optimizer, random_gradients(seed=step))
        results.append(torch.cat([parameter.detach().flatten() for parameter in parameters.values()]))
    assert torch.equal(*results)


def test_ratios_are_one_without_decay_and_for_weights_or_updates_of_zero():
    zero, idle, undecayed = (torch.nn.Parameter(torch.full((2,), value, device=DEVICE)) for value in (0.0, 0.0, 100.0))
    zero.grad, undecayed.grad = torch.tensor([[0.1, -0.1]] * 2, device=DEVICE)
    idle.grad = torch.zeros(2, device=DEVICE)
    groups = [{"params": [zero, idle]}, {"params": [undecayed], "weight_decay": 0.0}]
    LAMB(groups, lr=0.5, kernels="triton").step()
    assert zero.tolist() == pytest.approx([-0.5, 0.5], rel=1e-4)
    assert idle.tolist() == [0.0, 0.0]
    assert undecayed.tolist() == pytest.approx([99.5, 100.5], rel=1e-6)


def test_nan_gradients_reach_their_weights_alone():
    bad, good = (torch.nn.Parameter(torch.ones(3, device=DEVICE)) for _ in range(2))
    bad.grad, good.grad = torch.tensor([[1.0, math.nan, 1.0], [1.0, 1.0, 1.0]], device=DEVICE)
    LAMB([bad, good], lr=0.1, kernels="triton").step()
    assert bad.isnan().all()
    assert good.isfinite().all()


@pytest.mark.parametrize(("optimizer_class", "reference"), REFERENCES)
@pytest.mark.parametrize("first", ["torch", "triton"])
def test_all_kernels_go_on_from_the_others_state(optimizer_class, reference, first):
    second = {"torch": "triton", "triton": "torch"}[first]
    parameters = named_parameters()
    expected, optimizer = reference(parameters, 0.02), new_optimizer(optimizer_class, parameters, first)
    for step in range(4):
        if step == 2:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = new_optimizer(optimizer_class, parameters, second, lr=0.5)
            optimizer.load_state_dict(state)
        gradients = random_gradients(seed=step)
        train(parameters, optimizer, gradients)
        expected.step(gradients)
        assert_close(parameters, expected)
    assert state["state"].keys() == optimizer.state_dict()["state"].keys()
    assert {frozenset(values) for values in state["state"].values()} == {frozenset({"exp_avg", "exp_avg_sq"})}
    assert {group["step"] for group in optimizer.param_groups} == {4}


@pytest.mark.parametrize(("optimizer_class", "reference"), REFERENCES)
@pytest.mark.parametrize("scale", [0.001, 30.0])
def test_gradients_in_bf16_are_those_numbers(optimizer_class, reference, scale):
    parameters = named_parameters()
    for parameter in parameters.values():
        parameter.grad_dtype = torch.bfloat16
    expected, optimizer = reference(parameters, 0.02), new_optimizer(optimizer_class, parameters)
    for step in range(3):
        rounded = {name: gradient.bfloat16() for name, gradient in random_gradients(scale=scale, seed=step).items()}
        norm = train(parameters, optimizer, rounded)
        assert norm.dtype == torch.float32
        assert norm.item() == pytest.approx(expected.step({n: g.float() for n, g in rounded.items()}), rel=1e-6)
        assert_close(parameters, expected)


@pytest.mark.parametrize("optimizer_class", [LAMB, AdamW])
def test_gradients_are_left_alone(optimizer_class):
    parameters, gradients = named_parameters(), random_gradients()
    optimizer = new_optimizer(optimizer_class, parameters)
    train(parameters, optimizer, gradients, max_norm=0.1)
    for name, parameter in parameters.items():
        assert torch.equal(parameter.grad.cpu(), gradients[name])


def test_adamw_asks_for_no_blocks():
    odd = torch.nn.Parameter(torch.ones(4, 3, device=DEVICE))
    odd.grad = torch.ones_like(odd)
    AdamW([{"params": [odd], "n_blocks": 3}], lr=0.5, weight_decay=0.1, kernels="triton").step()
    assert odd.flatten().tolist() == pytest.approx([1 - 0.5 * (1 + 0.1)] * 12, rel=1e-5)


@pytest.mark.parametrize("optimizer_class", [LAMB, AdamW])
def test_parameters_without_gradients_are_left_alone_whenever_that_is(optimizer_class):
    parameters = named_parameters()
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer = new_optimizer(optimizer_class, parameters)
    some = ["whole_chunks.weight", "query_key_value.weight"]
    for names in (some, list(SHAPES), some[:1]):
        gradients = {name: random_gradients()[name] for name in names}
        train(parameters, optimizer, gradients)
        for name, parameter in parameters.items():
            assert torch.equal(parameter, before[name]) == (name not in names)
            before[name] = parameter.detach().clone()


def test_tables_are_made_again_only_when_a_tensor_has_moved(monkeypatch):
    made = []
    monkeypatch.setattr(optimizers, "make_tables", lambda *arguments: made.append(1) or make_tables(*arguments))
    parameters = named_parameters()
    naive, optimizer = NaiveLamb(parameters, 0.02, math.inf), new_lamb(parameters)
    first, second = random_gradients(seed=1), random_gradients(seed=2)
    for name, parameter in parameters.items():
        parameter.grad = first[name].to(DEVICE, copy=True)
    optimizer.step()
    assert len(made) == len(optimizer.param_groups)
    for name, parameter in parameters.items():
        parameter.grad.copy_(second[name])
    optimizer.step()
    assert len(made) == len(optimizer.param_groups)
    moved = parameters["whole_chunks.weight"]
    moved.grad = moved.grad.clone()
    for name, parameter in parameters.items():
        parameter.grad.copy_(second[name])
    optimizer.step()
    assert len(made) == len(optimizer.param_groups) + 1
    for gradients in (first, second, second):
        naive.step(gradients)
    assert_close(parameters, naive)


def test_tables_by_hand():
    shapes = [(6, 10), (3, 1), (9,)]
    columns = [[torch.zeros(shape, device=DEVICE) for shape in shapes] for _ in range(4)]
    tables = make_tables(columns, n_blocks=3, chunk=16)
    first_addresses = [[tensor.data_ptr() for tensor in column] for column in columns]
    sizes = [20, 20, 20, 1, 1, 1, 3, 3, 3]
    first_chunks = [0, 2, 4, 6, 7, 8, 9, 10, 11]
    offsets = [0, 80, 160, 0, 4, 8, 0, 12, 24]  # bytes
    expected = [
        [column[block // 3] + offset for column in first_addresses] + [size, first_chunk]
        for block, (offset, size, first_chunk) in enumerate(zip(offsets, sizes, first_chunks, strict=True))
    ]
    assert tables.blocks.tolist() == expected
    assert tables.block_of_chunk.tolist() == [0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8]
    assert tables.sums.shape == (12, 2)
    assert tables.ratios.shape == (9,)


def test_in_the_tables_each_column_has_bytes_of_its_own():
    columns = [[torch.zeros(6, 10, dtype=dtype, device=DEVICE)] for dtype in (torch.bfloat16, *(torch.float32,) * 3)]
    blocks = make_tables(columns, n_blocks=3, chunk=16).blocks.tolist()
    addresses = [column[0].data_ptr() for column in columns]
    assert [row[:2] for row in blocks] == [[addresses[0] + 40 * n, addresses[1] + 80 * n] for n in range(3)]


def test_gradients_in_several_dtypes_are_refused():
    parameters = [torch.nn.Parameter(torch.zeros(4, 3, device=DEVICE)) for _ in range(2)]
    for parameter, dtype in zip(parameters, (torch.bfloat16, torch.float32), strict=True):
        parameter.grad_dtype = dtype
        parameter.grad = torch.zeros(4, 3, dtype=dtype, device=DEVICE)
    with pytest.raises(ValueError, match=r"gradients all in float32 or bfloat16, not torch\.float32"):
        LAMB(parameters, lr=0.1, kernels="triton").step()


def test_gradients_that_are_not_contiguous_are_refused():
    parameter = torch.nn.Parameter(torch.zeros(4, 3, device=DEVICE))
    parameter.grad = torch.zeros(3, 4, device=DEVICE).T
    with pytest.raises(ValueError, match=r"contiguous float32.*\(4, 3\) and strides \(1, 4\)"):
        LAMB([parameter], lr=0.1, kernels="triton").step()


@pytest.mark.parametrize(("name", "takes_ratios"), [("lamb", True), ("adamw", False)])
def test_they_are_chosen_by_name_and_refused_where_they_cannot_run(monkeypatch, name, takes_ratios):
    parameters = named_parameters()

    def build(**options):
        return build_optimizer(name, parameter_groups(module_of(parameters)), lr=0.1, **options)

    assert build()._updates is None
    update = build(kernels="triton")._updates[0]
    assert isinstance(update, GroupUpdate)
    assert update.takes_ratios == takes_ratios
    elsewhere = torch.nn.Parameter(torch.zeros(2, device="meta"))
    with pytest.raises(UserError, match=r"cannot run on meta .*take --kernels torch"):
        build_optimizer(name, [{"params": [elsewhere]}], lr=0.1, kernels="triton")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"cannot run on .* \(Triton kernels need"):
        build(kernels="triton")


@pytest.mark.gpu
def test_on_a_gpu_it_does_not_synchronize():
    parameters = named_parameters()
    naive, optimizer = NaiveLamb(parameters, 0.02), new_lamb(parameters)
    for step in range(3):
        gradients = random_gradients(seed=step)
        for name, parameter in parameters.items():
            parameter.grad = gradients[name].to(DEVICE)
        naive.step(gradients)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            clip_and_step(optimizer, gradient_norm(optimizer.param_groups), 1.0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert_close(parameters, naive)
