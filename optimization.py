"""LAMB, AdamW and the warm-up schedules that BERT is trained with.

LAMB is written here because apex's is not on PyPI and PyTorch has none. It follows apex's FusedLAMB, with which the
published recipes were tuned, to the order of its operations: average, correct the bias, add the decoupled weight
decay, and only then take the trust ratio. AdamW is written here to have LAMB's state, in which a group counts its steps
and a new phase starts the count anew; PyTorch's counts them for each parameter. Both run over lists of tensors, with
PyTorch's operations (`torch._foreach_*`, `torch._fused_adamw_`) or, in less memory traffic, with kernels of our own
(kernels/optimizers.py). Nothing is read back from the device, so the next step's forward pass is queued behind it.

No optimizer here finds the norm to clip to by itself, but for apex's LAMB: the norm is over all gradients, and an
optimizer may hold a share of the parameters only. So `gradient_norm` comes before the step. Dividing by it is a pass
over the gradients, which kernels of our own make together with their first (`clip_and_step`).

The trust ratio belongs to a weight matrix as published. The model keeps query, key and value in one parameter, which
would give the three one ratio and train differently; such parameters sit in a group with `n_blocks = 3` and are seen
as three. apex's own LAMB cannot do this and takes one ratio for all three.

Sources: You et al. 2019, https://arxiv.org/abs/1904.00962 (LAMB); Loshchilov and Hutter 2017,
https://arxiv.org/abs/1711.05101 (AdamW); the recipes of NVIDIA's DeepLearningExamples BERT (poly schedule).
"""

import collections
import functools
import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.errors import Problem, UserError
from kernels.launch import triton_problem

OPTIMIZERS = ("lamb", "adamw", "apex_fused_lamb", "apex_fused_adam")
KERNELS = ("torch", "triton")
SCHEDULES = ("poly", "linear", "cosine", "constant")

BETAS = (0.9, 0.999)
EPSILON = 1e-6  # BERT's and LAMB's; PyTorch's Adam has 1e-8
POLY_DEGREE = 0.5


class _Tensors(NamedTuple):
    """Of a group's parameters that have a gradient, in one order."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    exp_avgs: list[Tensor]
    """First moments."""
    exp_avg_sqs: list[Tensor]
    """Second moments."""


class _AdaptiveMoments(torch.optim.Optimizer):
    """What LAMB and AdamW share: two moments for each fp32 parameter, and for each group the number of its steps.

    All kernels differ in rounding only, and take up each other's state.

    Args:
        params: fp32 parameters or groups of them, as `parameter_groups` makes them.
        lr: learning rate, a Python float; schedules overwrite the groups' `lr`.
        betas: decay rates of the two moments.
        eps: added to the square root.
        weight_decay: decoupled decay of groups that name none.
        kernels: `torch` for PyTorch's operations, `triton` for kernels of our own, which want all parameters on one
            GPU.

    Raises:
        UserError: Triton's kernels cannot run here.
        ValueError: a parameter is not fp32, or there are no such kernels.
    """

    divides_gradients = True
    """Its step takes a `gradient_divisor`."""
    takes_ratios: bool
    """Whether updates are scaled by trust ratios."""

    def __init__(self, params, lr, betas=BETAS, eps=EPSILON, weight_decay=0.01, kernels="torch"):
        if kernels not in KERNELS:
            raise ValueError(f"unknown kernels {kernels!r}: choose one of {', '.join(KERNELS)}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "n_blocks": 1})
        parameters = [p for group in self.param_groups for p in group["params"]]
        if any(p.dtype != torch.float32 for p in parameters):
            raise ValueError(f"{type(self).__name__} keeps master weights: every parameter must be float32")
        new_update = None
        if kernels == "triton":
            new_update = _new_triton_update(self.takes_ratios, {p.device for p in parameters})
        self._updates = collections.defaultdict(new_update or (lambda: self._divide_and_update))
        """By the group's place: what updates it, called with its tensors."""

    @torch.no_grad()
    def step(self, gradient_divisor: Tensor | None = None) -> None:
        """One update of every parameter that has a gradient; what the gradients hold afterwards is left open.

        Args:
            gradient_divisor: as `gradient_divisor` gives it: the gradients are divided by it first.
        """
        for place, group in enumerate(self.param_groups):
            group["step"] = group.get("step", 0) + 1
            tensors = self._collect(group)
            if tensors.parameters:
                self._updates[place](*tensors, group, gradient_divisor)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, or from a state of `torch.optim.AdamW`, as checkpoints once held it: the
        steps that it counted for each parameter become their group's."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            states = [self.state[p] for p in group["params"] if p in self.state]
            if steps := [int(state.pop("step")) for state in states if "step" in state]:
                group["step"] = max(steps)

    def _collect(self, group: dict) -> _Tensors:
        tensors = _Tensors([], [], [], [])
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            of_parameter = parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"]
            for tensor, column in zip(of_parameter, tensors, strict=True):
                column.append(tensor)
        return tensors

    def _divide_and_update(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        group: dict,
        gradient_divisor: Tensor | None,
    ) -> None:
        """What kernels/optimizers.py does in one pass, with PyTorch's operations."""
        if gradient_divisor is not None:
            torch._foreach_div_(gradients, gradient_divisor)
        self._update(_Tensors(parameters, gradients, exp_avgs, exp_avg_sqs), group)

    @staticmethod
    def _update(tensors: _Tensors, group: dict) -> None:
        """The update of one group, in place, with PyTorch's operations."""
        raise NotImplementedError


class AdamW(_AdaptiveMoments):
    """Adam with decoupled weight decay, multi-tensor, without host synchronization. Arguments: `_AdaptiveMoments`.

    For a parameter p with gradient g:
    m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
    p = p - lr (m / (1 - b1^step) / (sqrt(v / (1 - b2^step)) + eps) + decay p).
    """

    takes_ratios = False

    @staticmethod
    def _update(tensors: _Tensors, group: dict) -> None:
        """In place, by the kernel that `torch.optim.AdamW(fused=True)` launches."""
        beta1, beta2 = group["betas"]
        step = torch.full((), group["step"], dtype=torch.float32, device=tensors.parameters[0].device)
        torch._fused_adamw_(
            *tensors,
            [],
            [step] * len(tensors.parameters),
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


class LAMB(_AdaptiveMoments):
    """Layer-wise adaptive moments for large batches, multi-tensor, without host synchronization.

    Per weight block p with gradient g:
    m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
    u = m / (1 - b1^step) / (sqrt(v / (1 - b2^step)) + eps) + decay p;
    p = p - lr r u, with r = |p| / |u| where both norms are positive and the group has weight decay, else 1.

    `step` leaves the update u in the gradients, which saves a buffer of the model's size (apex does the same): clear
    them before the next backward pass.

    Arguments are those of `_AdaptiveMoments`. A group's `n_blocks` divides the first dimension of its parameters into
    that many equal blocks, each with a trust ratio of its own.
    """

    takes_ratios = True

    @staticmethod
    def _update(tensors: _Tensors, group: dict) -> None:
        """In place, without a temporary of the weights' size."""
        if (n_blocks := group["n_blocks"]) > 1:
            tensors = _Tensors(
                *([block for tensor in column for block in tensor.chunk(n_blocks)] for column in tensors)
            )
        parameters, gradients, exp_avgs, exp_avg_sqs = tensors
        (beta1, beta2), step = group["betas"], group["step"]
        correction1, correction2 = 1 - beta1**step, 1 - beta2**step
        torch._foreach_lerp_(exp_avgs, gradients, 1 - beta1)
        torch._foreach_mul_(exp_avg_sqs, beta2)
        torch._foreach_addcmul_(exp_avg_sqs, gradients, gradients, 1 - beta2)

        updates = gradients  # spent by now, their memory holds the update
        torch._foreach_copy_(updates, exp_avg_sqs)
        torch._foreach_sqrt_(updates)
        torch._foreach_mul_(updates, correction1 / math.sqrt(correction2))
        torch._foreach_add_(updates, correction1 * group["eps"])
        torch._foreach_reciprocal_(updates)
        torch._foreach_mul_(updates, exp_avgs)
        if group["weight_decay"] == 0:
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])
            return
        torch._foreach_add_(updates, parameters, alpha=group["weight_decay"])
        torch._foreach_addcmul_(parameters, updates, _trust_ratios(parameters, updates), -group["lr"])


def _trust_ratios(parameters: list[Tensor], updates: list[Tensor]) -> list[Tensor]:
    """|p| / |u| of each pair as 0-d tensors, 1 where either norm is zero."""
    parameter_norms = torch.stack(torch._foreach_norm(parameters))
    update_norms = torch.stack(torch._foreach_norm(updates))
    either_zero = (parameter_norms == 0) | (update_norms == 0)
    return list((parameter_norms / update_norms).masked_fill_(either_zero, 1.0).unbind())


def _new_triton_update(takes_ratios: bool, devices: set[torch.device]) -> Callable[[], Callable[..., None]]:
    """What makes a group's update by kernels/optimizers.py; raises UserError where Triton cannot run."""
    for device in devices:
        if reason := triton_problem(device):
            raise UserError(f"the optimizers' kernels cannot run on {device} ({reason})", "take --kernels torch")
    kernels = importlib.import_module("kernels.optimizers")
    return functools.partial(kernels.GroupUpdate, takes_ratios)


@torch.no_grad()
def gradient_norm(param_groups: list[dict]) -> Tensor:
    """The norm over the gradients of all groups, a 0-d fp32 tensor on their device; nothing is read on the host.

    Raises:
        ValueError: no parameter has a gradient.
    """
    gradients = _gradients(param_groups)
    if not gradients:
        raise ValueError("no parameter has a gradient")
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


@torch.no_grad()
def gradient_divisor(norm: Tensor, max_grad_norm: float, loss_scale: float = 1.0) -> Tensor | None:
    """What takes the loss scale out of gradients and clips them: `loss_scale` times max(1, norm / max_grad_norm).

    Args:
        norm: of the gradients as they will be without the loss scale, 0-d.
        max_grad_norm: `math.inf` does not clip.

    Returns:
        0-d, of the norm's dtype and on its device; None where there is nothing to divide by.
    """
    if max_grad_norm < math.inf:
        return (norm / max_grad_norm).clamp(min=1.0) * loss_scale
    return None if loss_scale == 1.0 else torch.full_like(norm, loss_scale)


@torch.no_grad()
def clip_gradients(param_groups: list[dict], norm: Tensor, max_grad_norm: float, loss_scale: float = 1.0) -> None:
    """Divide all gradients by their `gradient_divisor`, in place and in one pass."""
    divisor = gradient_divisor(norm, max_grad_norm, loss_scale)
    if divisor is not None:
        torch._foreach_div_(_gradients(param_groups), divisor)


def clip_and_step(optimizer: Any, norm: Tensor, max_grad_norm: float, loss_scale: float = 1.0) -> None:
    """A step with gradients divided by their `gradient_divisor`: by the optimizer itself where it `divides_gradients`,
    before its step where it does not."""
    if getattr(optimizer, "divides_gradients", False):
        optimizer.step(gradient_divisor=gradient_divisor(norm, max_grad_norm, loss_scale))
    else:
        clip_gradients(optimizer.param_groups, norm, max_grad_norm, loss_scale)
        optimizer.step()


def _gradients(param_groups: list[dict]) -> list[Tensor]:
    return [p.grad for group in param_groups for p in group["params"] if p.grad is not None]


def parameter_groups(model: nn.Module, weight_decay: float = 0.01) -> list[dict]:
    """Groups for any optimizer here: weights are decayed, and vectors (biases and LayerNorm's scales) are not.

    A module that has `n_blocks` holds so many weights in one (kernels.layers.Linear); weights go to groups by it.
    Parameters that do not require gradients are left out; a group without parameters is not made. Checkpoints know a
    parameter by its place in the groups, so the order is fixed: by `n_blocks`, undecayed last, and within a group that
    of the model.
    """
    decayed, undecayed = collections.defaultdict(list), []
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                column = undecayed if parameter.dim() < 2 else decayed[getattr(module, "n_blocks", 1)]
                column.append(parameter)
    groups = [
        {"params": decayed[n_blocks], "weight_decay": weight_decay, "n_blocks": n_blocks}
        for n_blocks in sorted(decayed)
    ]
    if undecayed:
        groups.append({"params": undecayed, "weight_decay": 0.0, "n_blocks": 1})
    return groups


def build_optimizer(
    name: str, groups: list[dict], lr: float, max_grad_norm: float = 1.0, kernels: str = "torch"
) -> torch.optim.Optimizer:
    """An optimizer over these groups.

    Args:
        name: one of `OPTIMIZERS`.
        groups: from `parameter_groups`.
        lr: learning rate of the first step.
        max_grad_norm: for those that clip themselves, see `clips_itself`.
        kernels: `triton` takes kernels of our own, `torch` PyTorch's operations; apex's optimizers have theirs.

    Raises:
        UserError: apex or Triton is asked for and cannot be used here.
        ValueError: unknown name or kernels.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}: choose one of {', '.join(OPTIMIZERS)}")
    if name == "lamb":
        return LAMB(groups, lr, kernels=kernels)
    if name == "adamw":
        return AdamW(groups, lr, kernels=kernels)
    if problem := unavailable(name):
        raise UserError(problem)
    if name == "apex_fused_adam":
        fused_adam = importlib.import_module("apex.optimizers").FusedAdam
        return fused_adam(groups, lr=lr, betas=BETAS, eps=EPSILON, adam_w_mode=True)
    fused_lamb = importlib.import_module("apex.optimizers").FusedLAMB
    return fused_lamb(groups, lr=lr, betas=BETAS, eps=EPSILON, max_grad_norm=max_grad_norm)


def clips_itself(name: str) -> bool:
    """Whether this optimizer clips the global gradient norm in its own kernels, so that nobody needs to before it."""
    return name == "apex_fused_lamb"


def unavailable(name: str) -> Problem | None:
    """Why this optimizer cannot be used here; None when it can."""
    if not name.startswith("apex_"):
        return None
    try:
        importlib.import_module("apex.optimizers")
    except ImportError as error:
        return Problem(
            f"the optimizer {name} needs NVIDIA's apex, and apex.optimizers cannot be imported ({error})",
            "build it from https://github.com/NVIDIA/apex (apex on PyPI is another package), or use lamb or adamw",
        )
    if not torch.cuda.is_available():
        return Problem(f"the optimizer {name} runs on NVIDIA GPUs only, and torch sees none", "use lamb or adamw")
    return None


def learning_rate(
    step: int, total_steps: int, warmup_proportion: float, base_lr: float, schedule: str = "poly"
) -> float:
    """The rate of optimizer step `step`, of 1 to `total_steps`.

    It rises linearly from 0 to `base_lr` over the first `warmup_proportion` of the steps. After that `linear` and
    `cosine` fall from `base_lr` to 0 at the last step and `constant` stays. `poly` is NVIDIA's and Google's: it falls
    as (1 - step / total_steps) ** 0.5, counted from the first step and not from the end of warm-up, and so drops at
    once from `base_lr` to `base_lr * (1 - warmup_proportion) ** 0.5`. Steps beyond the last keep the last one's rate.

    Raises:
        ValueError: unknown schedule, a step or total below 1, or a warm-up proportion outside [0, 1).
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}: choose one of {', '.join(SCHEDULES)}")
    if step < 1 or total_steps < 1 or not 0 <= warmup_proportion < 1:
        raise ValueError(
            f"steps count from 1 and the warm-up proportion lies in [0, 1), "
            f"not step {step} of {total_steps} with proportion {warmup_proportion}"
        )
    progress = min(step / total_steps, 1.0)
    if progress < warmup_proportion:
        return base_lr * progress / warmup_proportion
    if schedule == "poly":
        return base_lr * (1 - progress) ** POLY_DEGREE
    decayed = (progress - warmup_proportion) / (1 - warmup_proportion)
    if schedule == "linear":
        return base_lr * (1 - decayed)
    if schedule == "cosine":
        return base_lr * 0.5 * (1 + math.cos(math.pi * decayed))
    return base_lr


class WarmupSchedule:
    """Keeps the groups of an optimizer at the rate of the coming step.

    Its only state is the number of finished steps, so a resumed run follows the configuration it is given.
    Call `step()` after each optimizer step that took place.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        total_steps: int,
        warmup_proportion: float,
        base_lr: float,
        schedule: str = "poly",
    ):
        self.optimizer = optimizer
        self.shape = (total_steps, warmup_proportion, base_lr, schedule)
        self.finished_steps = 0
        self._apply()

    @property
    def learning_rate(self) -> float:
        """The rate that the coming optimizer step will use."""
        return learning_rate(self.finished_steps + 1, *self.shape)

    def step(self) -> None:
        self.finished_steps += 1
        self._apply()

    def state_dict(self) -> dict:
        return {"finished_steps": self.finished_steps}

    def load_state_dict(self, state: dict) -> None:
        """Load after the optimizer's state, whose groups carry the rate of the run that was saved."""
        self.finished_steps = state["finished_steps"]
        self._apply()

    def _apply(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
