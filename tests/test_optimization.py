"""Optimizers against loops written from the papers in float64, schedules against numbers worked by hand."""

import copy
import math
import sys
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_lamb import BETA1, BETA2, DECAY, EPS, NaiveLamb, clipped, module_of

import optimization
from common.errors import UserError
from modeling import BertForPreTraining, BertForQuestionAnswering
from models.config import BertConfig
from optimization import (
    LAMB,
    SCHEDULES,
    WarmupSchedule,
    build_optimizer,
    clips_itself,
    gradient_norm,
    learning_rate,
    parameter_groups,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # the kernels run on a CPU where there is no GPU
SHAPES = {
    "embeddings.word_embeddings.weight": (11, 6),
    "encoder.layer.0.attention.self.query_key_value.weight": (12, 6),
    "encoder.layer.0.attention.self.query_key_value.bias": (12,),
    "encoder.layer.0.output.LayerNorm.weight": (6,),
    "encoder.layer.0.output.LayerNorm.bias": (6,),
    "cls.predictions.bias": (11,),
    "zero.weight": (3, 2),
}


def named_parameters(seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator).to(device)) for name, shape in SHAPES.items()
    }
    with torch.no_grad():
        parameters["zero.weight"].zero_()
    return parameters


def random_gradients(scale, seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * scale for name, shape in SHAPES.items()}


def set_gradients(parameters, gradients):
    for name, parameter in parameters.items():
        parameter.grad = gradients[name].to(parameter.device, copy=True)


def clip_and_step(optimizer, max_norm=1.0):
    """As the training step does it; returns the norm before clipping."""
    norm = gradient_norm(optimizer.param_groups)
    optimization.clip_and_step(optimizer, norm, max_norm)
    return norm


@pytest.mark.parametrize("scale", [0.001, 0.1, 30.0], ids=["unclipped", "clipped", "clipped_hard"])
def test_lamb_equals_naive_lamb_over_steps(scale):
    parameters = named_parameters()
    naive = NaiveLamb(parameters, lr=0.02)
    optimizer = LAMB(parameter_groups(module_of(parameters)), lr=0.02)
    for step in range(12):
        gradients = random_gradients(scale * (1 + step % 3), seed=step)
        set_gradients(parameters, gradients)
        norm = clip_and_step(optimizer)
        assert norm.item() == pytest.approx(naive.step(gradients), rel=1e-6)
        for name, parameter in parameters.items():
            torch.testing.assert_close(parameter.double(), naive.parameter(name), rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize(
    ("betas", "eps", "decay"),
    [((0.60466, 0.85437), 1e-6, 0.1), ((0.88, 0.88), 1e-6, 0.0166629), ((0.0, 0.9), 1e-2, 0.01)],
)
def test_lamb_takes_betas_epsilon_and_decay(kernels, betas, eps, decay):
    parameters = named_parameters(device=DEVICE)
    naive = NaiveLamb(parameters, lr=0.02, betas=betas, eps=eps, decay=decay)
    groups = parameter_groups(module_of(parameters), decay)
    optimizer = build_optimizer("lamb", groups, 0.02, kernels=kernels, betas=betas, eps=eps)
    for step in range(4):
        gradients = random_gradients(0.01, seed=step)
        set_gradients(parameters, gradients)
        clip_and_step(optimizer)
        naive.step(gradients)
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.double().cpu(), naive.parameter(name), rtol=5e-6, atol=5e-7)


@settings(max_examples=40, deadline=None)
@given(
    exponent=st.floats(-6, 4),
    lr=st.floats(1e-5, 0.5),
    max_norm=st.sampled_from([0.5, 1.0, math.inf]),
    seed=st.integers(0, 99),
)
def test_lamb_equals_naive_lamb_at_any_scale(exponent, lr, max_norm, seed):
    parameters = named_parameters(seed)
    naive = NaiveLamb(parameters, lr, max_norm)
    optimizer = LAMB(parameter_groups(module_of(parameters)), lr)
    for step in range(3):
        gradients = random_gradients(10**exponent, seed=seed + step)
        set_gradients(parameters, gradients)
        clip_and_step(optimizer, max_norm)
        naive.step(gradients)
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.double(), naive.parameter(name), rtol=1e-5, atol=1e-6)


def test_lamb_without_bias_correction_by_hand():
    parameter = torch.nn.Parameter(torch.full((1,), 2.0))
    groups = [{"params": [parameter], "weight_decay": 0.0}]
    optimizer = build_optimizer("lamb", groups, lr=0.1, bias_correction=False)
    parameter.grad = torch.ones(1)
    optimizer.step()
    # m = 0.1 and v = 0.001, as they are: the first step is 3.16 times the corrected one.
    assert parameter.item() == pytest.approx(2.0 - 0.1 * 0.1 / (math.sqrt(0.001) + 1e-6))


def test_lamb_by_hand():
    # |p| = 5. The first step's Adam direction is sign(g) = (1, 1); decay adds (0.03, 0.04), so |u| = sqrt(2.1425).
    parameter = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    parameter.grad = torch.tensor([6.0, 8.0])
    optimizer = LAMB([parameter], lr=0.1, weight_decay=0.01)
    assert clip_and_step(optimizer).item() == pytest.approx(10.0)
    # The gradient was clipped from norm 10 to 1, and a tenth of it averaged in.
    assert optimizer.state[parameter]["exp_avg"].tolist() == pytest.approx([0.06, 0.08])
    assert optimizer.state[parameter]["exp_avg_sq"].tolist() == pytest.approx([0.00036, 0.00064])
    ratio = 5 / math.sqrt(2.1425)
    assert parameter.tolist() == pytest.approx([3 - 0.1 * ratio * 1.03, 4 - 0.1 * ratio * 1.04], rel=1e-5)
    assert parameter.tolist() == pytest.approx([2.648159, 3.644743], rel=1e-5)


def test_trust_ratio_is_one_for_zero_weights_and_for_undecayed_groups():
    zero = torch.nn.Parameter(torch.zeros(2))
    undecayed = torch.nn.Parameter(torch.full((2,), 100.0))
    for parameter in (zero, undecayed):
        parameter.grad = torch.tensor([0.1, -0.1])
    LAMB([{"params": [zero]}, {"params": [undecayed], "weight_decay": 0.0}], lr=0.5).step()
    assert zero.tolist() == pytest.approx([-0.5, 0.5], rel=1e-4)
    assert undecayed.tolist() == pytest.approx([99.5, 100.5], rel=1e-6)


def test_zero_gradients_move_undecayed_weights_nowhere_and_give_no_nan():
    parameters = named_parameters()
    before = {name: p.detach().clone() for name, p in parameters.items()}
    set_gradients(parameters, random_gradients(0.0, seed=0))
    LAMB(parameter_groups(module_of(parameters)), lr=0.1).step()
    assert all(p.isfinite().all() for p in parameters.values())
    assert torch.equal(parameters["cls.predictions.bias"], before["cls.predictions.bias"])
    # The update is decay alone, along the weights, and the trust ratio makes its length that of the weights.
    name = "embeddings.word_embeddings.weight"
    torch.testing.assert_close(parameters[name].detach(), before[name] * 0.9)


def test_nan_gradients_reach_the_weights():
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, math.nan])
    assert clip_and_step(LAMB([parameter], lr=0.1)).isnan()
    assert parameter.isnan().all()


def test_lamb_leaves_parameters_without_gradients_alone():
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = LAMB([{"params": [used]}, {"params": [unused]}], lr=0.1)
    optimizer.step()
    used.grad = torch.ones(2)
    optimizer.step()
    assert unused.tolist() == [1.0, 1.0]
    assert used.tolist() != [1.0, 1.0]


@pytest.mark.parametrize("name", ["lamb", "adamw"])
def test_state_dict_continues_bit_for_bit(name):
    straight, resumed = named_parameters(), named_parameters()
    optimizer = build_optimizer(name, parameter_groups(module_of(straight)), lr=0.01)
    for step in range(3):
        set_gradients(straight, random_gradients(0.1, seed=step))
        optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    with torch.no_grad():
        for key, parameter in resumed.items():
            parameter.copy_(straight[key])
    second = build_optimizer(name, parameter_groups(module_of(resumed)), lr=0.5)
    second.load_state_dict(saved)
    for each, parameters in ((optimizer, straight), (second, resumed)):
        set_gradients(parameters, random_gradients(0.1, seed=9))
        each.step()
    for key in SHAPES:
        assert torch.equal(straight[key], resumed[key])


def test_lamb_never_asks_for_a_value():
    # Meta tensors have no values: whatever reads one on the host, and so would wait for a device, fails on them.
    parameters = named_parameters(device="meta")
    optimizer = LAMB(parameter_groups(module_of(parameters)), lr=0.02)
    set_gradients(parameters, random_gradients(0.3, seed=0))
    norm = clip_and_step(optimizer)
    assert norm.is_meta
    with pytest.raises(RuntimeError, match="meta"):
        norm.item()


@pytest.mark.gpu
def test_lamb_on_a_gpu_does_not_synchronize_and_equals_the_cpu():
    on_cpu, on_gpu = named_parameters(), named_parameters(device="cuda")
    optimizers = [LAMB(parameter_groups(module_of(p)), lr=0.02) for p in (on_cpu, on_gpu)]
    for step in range(3):
        for parameters, optimizer in zip((on_cpu, on_gpu), optimizers, strict=True):
            set_gradients(parameters, random_gradients(0.3, seed=step))
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            try:
                norm = clip_and_step(optimizer)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    assert norm.is_cuda
    for name in SHAPES:
        torch.testing.assert_close(on_gpu[name].cpu(), on_cpu[name], rtol=1e-5, atol=1e-6)


def test_groups_decay_weights_only_and_see_query_key_value_as_three():
    parameters = named_parameters()
    parameters["frozen.weight"] = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    groups = parameter_groups(module_of(parameters), weight_decay=0.02)
    names = {id(parameter): name for name, parameter in parameters.items()}
    described = [(g["weight_decay"], g["n_blocks"], {names[id(p)] for p in g["params"]}) for g in groups]
    qkv = "encoder.layer.0.attention.self.query_key_value"
    norm = "encoder.layer.0.output.LayerNorm"
    assert described == [
        (0.02, 1, {"embeddings.word_embeddings.weight", "zero.weight"}),
        (0.02, 3, {f"{qkv}.weight"}),
        (0.0, 1, {f"{qkv}.bias", f"{norm}.weight", f"{norm}.bias", "cls.predictions.bias"}),
    ]


@pytest.mark.parametrize("model_class", [BertForPreTraining, BertForQuestionAnswering])
def test_groups_have_the_order_that_checkpoints_rely_on(model_class):
    """Checkpoints know a parameter by its place, and were written when names decided on the groups."""
    model = model_class(BertConfig(30, 16, 2, 2, 32))
    plain, fused, undecayed = [], [], []
    for name, _ in model.named_parameters():
        is_vector = name.endswith(".bias") or "LayerNorm." in name
        (undecayed if is_vector else fused if "query_key_value" in name else plain).append(name)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, 0.02)
    assert [[names[parameter] for parameter in group["params"]] for group in groups] == [plain, fused, undecayed]
    assert [(group["weight_decay"], group["n_blocks"]) for group in groups] == [(0.02, 1), (0.02, 3), (0.0, 1)]


@pytest.mark.parametrize("bias_correction", [True, False])
def test_adamw_equals_naive_adamw_with_clipping(bias_correction):
    parameters = named_parameters()
    groups = parameter_groups(module_of(parameters))
    optimizer = build_optimizer("adamw", groups, lr=0.05, bias_correction=bias_correction)
    naive = {name: (p.detach().double(), 0.0, 0.0) for name, p in parameters.items()}
    for step in range(1, 6):
        gradients = random_gradients(0.2 if step % 2 else 0.001, seed=step)
        set_gradients(parameters, gradients)
        scaled, norm = clipped(gradients, 1.0)
        assert clip_and_step(optimizer).item() == pytest.approx(norm, rel=1e-6)
        for name, (p, m, v) in naive.items():
            decay = 0.0 if name.endswith("bias") or "LayerNorm" in name else DECAY
            m, v = BETA1 * m + (1 - BETA1) * scaled[name], BETA2 * v + (1 - BETA2) * scaled[name] ** 2
            corrections = (1 - BETA1**step, 1 - BETA2**step) if bias_correction else (1, 1)
            direction = (m / corrections[0]) / ((v / corrections[1]).sqrt() + EPS)
            naive[name] = (p - 0.05 * (direction + decay * p), m, v)
            torch.testing.assert_close(parameters[name].double(), naive[name][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("betas", "eps"), [((BETA1, BETA2), EPS), ((0.7, 0.95), 1e-3)])
def test_adamw_is_pytorchs_fused_one_bit_for_bit(betas, eps):
    theirs, ours = named_parameters(), named_parameters()
    groups = parameter_groups(module_of(theirs))
    their_optimizer = torch.optim.AdamW(groups, 0.05, betas=betas, eps=eps, fused=True)
    optimizer = build_optimizer("adamw", parameter_groups(module_of(ours)), lr=0.05, betas=betas, eps=eps)
    for step in range(6):
        for parameters, each in ((theirs, their_optimizer), (ours, optimizer)):
            set_gradients(parameters, random_gradients(0.2, seed=step))
            each.step()
        assert all(torch.equal(ours[name], theirs[name]) for name in SHAPES)
    assert {group["step"] for group in optimizer.param_groups} == {6}
    assert {key for state in optimizer.state.values() for key in state} == {"exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("name", ["lamb", "adamw"])
def test_steps_are_counted_anew_where_a_phase_begins(name):
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = build_optimizer(name, [{"params": [parameter], "weight_decay": 0.0}], lr=0.1)
    for _ in range(5):
        parameter.grad = torch.ones(1)
        optimizer.step()
    (state,) = optimizer.state.values()
    for moment in state.values():
        moment.fill_(1.0)
    optimizer.param_groups[0]["step"] = 0
    parameter.grad = torch.ones(1)
    before = parameter.item()
    optimizer.step()
    # The moments stay 1; in a first step they are divided by 0.1 and 0.001.
    assert before - parameter.item() == pytest.approx(0.1 * 10 / math.sqrt(1000), rel=1e-4)


@pytest.mark.parametrize("name", ["apex_fused_lamb", "apex_fused_adam"])
def test_missing_apex_is_one_sentence(name, monkeypatch):
    # What PyPI's package of that name looks like: importable, and without optimizers.
    monkeypatch.setitem(sys.modules, "apex", types.ModuleType("apex"))
    monkeypatch.delitem(sys.modules, "apex.optimizers", raising=False)
    with pytest.raises(UserError, match=r"apex\.optimizers cannot be imported.*github\.com/NVIDIA/apex"):
        build_optimizer(name, parameter_groups(module_of(named_parameters())), lr=0.1)


@pytest.mark.parametrize(("name", "class_name"), [("apex_fused_lamb", "FusedLAMB"), ("apex_fused_adam", "FusedAdam")])
def test_importable_apex_is_used(name, class_name, monkeypatch):
    class Fused(torch.optim.SGD):
        def __init__(self, groups, lr, betas, eps, **options):
            super().__init__(groups, lr)
            self.options = options | {"betas": betas, "eps": eps}

    optimizers = types.ModuleType("apex.optimizers")
    setattr(optimizers, class_name, Fused)
    monkeypatch.setitem(sys.modules, "apex", types.ModuleType("apex"))
    monkeypatch.setitem(sys.modules, "apex.optimizers", optimizers)
    with monkeypatch.context() as without_gpu:
        without_gpu.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(UserError, match="NVIDIA GPUs only"):
            build_optimizer(name, parameter_groups(module_of(named_parameters())), lr=0.1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2))]}]
    optimizer = build_optimizer(name, groups, lr=1.0, max_grad_norm=0.5, betas=(0.6, 0.8), eps=1e-3)
    assert isinstance(optimizer, Fused)
    # FusedLAMB clips in its kernels; Adam's gradients are clipped for it.
    assert clips_itself(name) == ("lamb" in name)
    own = {"max_grad_norm": 0.5} if "lamb" in name else {"adam_w_mode": True}
    assert optimizer.options == own | {"bias_correction": True, "betas": (0.6, 0.8), "eps": 1e-3}


@pytest.mark.parametrize(
    ("max_norm", "scale"), [(1.0, 1.0), (1.0, 1024.0), (100.0, 4.0), (math.inf, 8.0), (math.inf, 1.0)]
)
def test_clipping_takes_the_loss_scale_out(max_norm, scale):
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0]) * scale
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    norm = gradient_norm(optimizer.param_groups) / scale
    optimization.clip_and_step(optimizer, norm, max_norm, scale)
    shrunk = max(1.0, 5.0 / max_norm)
    assert norm.item() == pytest.approx(5.0)
    assert parameter.grad.tolist() == pytest.approx([3 / shrunk, 4 / shrunk])


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1, 2.998646e-6),  # 6e-3 / 7038 / 0.2843
        (1000, 2.998646e-3),
        (2000, 5.997291e-3),  # 2000 / 7038 = 0.28417, still warming up
        (2001, 5.075895e-3),  # 6e-3 * sqrt(1 - 0.284314)
        (3519, 4.242641e-3),  # half way: 6e-3 / sqrt(2)
        (7037, 7.151985e-5),  # 6e-3 / sqrt(7038)
        (7038, 0.0),
    ],
)
def test_poly_gives_the_rates_of_nvidias_phase_1(step, expected):
    assert learning_rate(step, 7038, 0.2843, 6e-3, "poly") == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("linear", {1: 0.2, 5: 1.0, 10: 2.0, 55: 1.0, 91: 0.2, 100: 0.0}),
        ("cosine", {1: 0.2, 10: 2.0, 40: 1.5, 55: 1.0, 70: 0.5, 100: 0.0}),
        ("constant", {1: 0.2, 10: 2.0, 55: 2.0, 100: 2.0, 101: 2.0}),
        ("poly", {9: 1.8, 10: 2 * 0.9**0.5, 64: 1.2, 75: 1.0, 99: 0.2, 100: 0.0, 101: 0.0}),
    ],
)
def test_schedules_by_hand(schedule, rates):
    for step, expected in rates.items():
        assert learning_rate(step, 100, 0.1, 2.0, schedule) == pytest.approx(expected, abs=1e-12)


# Sets of hyperparameters that were submitted to MLPerf: peak rate, T, W, S0, and rates of the update after s others.
@pytest.mark.parametrize(
    ("base", "total", "warmup", "start", "rates"),
    [
        # 448: base (1 - s / 6700)
        (4.25e-4, 6700, 0, 0, {0: 4.25e-4, 1: 4.24936567e-4, 3350: 2.125e-4, 6699: 6.34328e-8, 6700: 0.0, 6701: 0.0}),
        # 3,072: base s / 100 up to s = 99, and then 2e-3 (1 - 100 / 1141)
        (2e-3, 1141, 100, 0, {0: 0.0, 1: 2e-5, 99: 1.98e-3, 100: 1.82471516e-3, 1140: 1.752848e-6}),
        # 6,144: no warm-up, and the start step does nothing
        (2.9293e-3, 700, 0, -700, {0: 2.9293e-3, 350: 1.46465e-3, 699: 4.184714e-6}),
        # 8,192: it begins at 76 / 287 of its rate, rises while s + 76 < 287, and drops at s = 211 to 389 / 600 of it
        (2.88293e-3, 600, 287, -76, {0: 7.634239e-4, 210: 2.872885e-3, 211: 1.86909962e-3, 599: 4.8048833e-6}),
        # 12,288: 100 of 300 steps lie before the first
        (3.1e-3, 500, 300, -100, {0: 1.03333333e-3, 199: 3.08966667e-3, 200: 1.86e-3, 499: 6.2e-6}),
        # NVIDIA's 4,608: 200,000 of 170,200 steps of warm-up lie before the first, so that there is none
        (2.58e-3, 780, 170_200, -200_000, {0: 2.58e-3, 390: 1.29e-3, 779: 3.3076923e-6}),
    ],
)
def test_mlperfs_schedule_by_hand(base, total, warmup, start, rates):
    for done, expected in rates.items():
        found = learning_rate(done + 1, total, None, base, "mlperf", warmup, start)
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-15), done


FALLING = [name for name in SCHEDULES if name != "mlperf"]


@given(schedule=st.sampled_from(FALLING), total=st.integers(1, 20_000), warmup=st.floats(0, 0.99), at=st.floats(0, 1))
def test_schedules_rise_then_fall_and_meet(schedule, total, warmup, at):
    step = max(1, round(at * total))
    now, following = (learning_rate(s, total, warmup, 1.0, schedule) for s in (step, step + 1))
    assert 0 <= now <= 1
    if (step + 1) / total < warmup:
        assert now < following
    elif step / total >= warmup:
        assert now >= following
    # The steepest slope of each: the warm-up's, and the decay's (cosine: pi / 2 in the middle).
    steepest = max(1 / (warmup * total) if warmup * total > 1 else 1.0, math.pi / 2 / ((1 - warmup) * total))
    if schedule != "poly":
        assert abs(following - now) <= steepest * (1 + 1e-9)
    elif step / total < warmup <= (step + 1) / total:
        assert following == pytest.approx((1 - min(1, (step + 1) / total)) ** 0.5)


def test_warmup_schedule_sets_all_groups_and_its_state_is_the_step():
    def new():
        parameters = named_parameters()
        optimizer = build_optimizer("lamb", parameter_groups(module_of(parameters)), lr=1.0)
        return optimizer, WarmupSchedule(optimizer, 20, 0.25, 0.4, "linear")

    optimizer, schedule = new()
    rates = []
    for _ in range(20):
        assert {group["lr"] for group in optimizer.param_groups} == {schedule.learning_rate}
        rates.append(schedule.learning_rate)
        schedule.step()
        if schedule.finished_steps == 7:
            saved = schedule.state_dict()
    assert rates == [learning_rate(step, 20, 0.25, 0.4, "linear") for step in range(1, 21)]
    assert saved == {"finished_steps": 7}
    other_optimizer, other = new()
    other.load_state_dict(saved)
    assert {group["lr"] for group in other_optimizer.param_groups} == {rates[7]}
