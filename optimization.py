"""LAMB, AdamW and the warm-up schedules that BERT is trained with.

LAMB follows apex's FusedLAMB, with which the published recipes were tuned, to the order of its operations. AdamW is
written here to count steps by group, as LAMB does, so that a new phase can start the count anew. Both run over lists of
tensors, with PyTorch's operations or with kernels of our own (kernels/optimizers.py), and read nothing back from the
device. The norm to clip to is found before the step (`gradient_norm`), since an optimizer may hold a share of the
parameters only; kernels of our own divide by it in their first pass (`clip_and_step`).

Sources: You et al. 2019, https://arxiv.org/abs/1904.00962 (LAMB); Loshchilov and Hutter 2017,
https://arxiv.org/abs/1711.05101 (AdamW); the recipes of NVIDIA's DeepLearningExamples BERT (poly schedule); MLPerf
Training's reference BERT, https://github.com/mlcommons/training (mlperf schedule).
"""

import collections
import functools
import importlib
import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from common.errors import Problem, UserError
from kernels.launch import triton_problem

OPTIMIZERS = ("lamb", "adamw", "apex_fused_lamb", "apex_fused_adam")
SCHEDULES = ("poly", "linear", "cosine", "constant", "mlperf")

BETAS = (0.9, 0.999)
EPSILON = 1e-6  # BERT's and LAMB's; PyTorch's Adam has 1e-8
POLY_DEGREE = 0.5


class _AdaptiveMoments(Optimizer):
    """What LAMB and AdamW share: two moments for each fp32 parameter, and for each group the number of its steps.

    All kernels differ in rounding only, and take up each other's state.

    Args:
        params: fp32 parameters or groups of them, as `parameter_groups` makes them.
        lr: learning rate, a Python float; schedules overwrite the groups' `lr`.
        weight_decay: decoupled decay of groups that name none.
        kernels: `torch` for PyTorch's operations, `triton` for kernels of our own, which want all parameters on one
            GPU. Raises UserError where they cannot run.
        bias_correction: whether moments are divided by 1 - beta^step. Google's and NVIDIA's Adam for BERT does not.
        betas: decays of both moments, in [0, 1).
        eps: positive, added to the root of the second moment.
    """

    divides_gradients = True
    """Its step takes a `gradient_divisor`."""
    takes_ratios: bool
    """Whether updates are scaled by trust ratios."""

    # PyTorch wraps these for its compiler, which the first call would load: a second that only `--compile` needs.
    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)

    def __init__(
        self, params, lr, weight_decay=0.01, kernels="torch", *, bias_correction=True, betas=BETAS, eps=EPSILON
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "n_blocks": 1}
        super().__init__(params, defaults)
        self.bias_correction = bias_correction
        self._updates = None
        if kernels == "triton":
            device = self.param_groups[0]["params"][0].device
            if reason := triton_problem(device):
                raise UserError(f"the optimizers' kernels cannot run on {device} ({reason})", "take --kernels torch")
            new_update = importlib.import_module("kernels.optimizers").GroupUpdate
            self._updates = collections.defaultdict(functools.partial(new_update, self.takes_ratios))

    @property
    def takes_bf16_gradients(self) -> bool:
        """Whether gradients may be in bf16, all of them: kernels of our own read such."""
        return self._updates is not None

    @torch.no_grad()
    def step(self, gradient_divisor: Tensor | None = None) -> None:
        """One update of every parameter that has a gradient; what the gradients hold afterwards is left open.

        Args:
            gradient_divisor: 0-d, fp32, on the device: the gradients are divided by it first.
        """
        for place, group in enumerate(self.param_groups):
            group["step"] = group.get("step", 0) + 1
            # At step infinity the moments are no longer biased, and the corrections are 1.
            corrected_at = group if self.bias_correction else group | {"step": math.inf}
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters]
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter] = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            moments = [[self.state[p][name] for p in parameters] for name in ("exp_avg", "exp_avg_sq")]
            if self._updates is not None:
                self._updates[place](parameters, gradients, *moments, corrected_at, gradient_divisor)
                continue
            if gradient_divisor is not None:
                torch._foreach_div_(gradients, gradient_divisor)
            self._update(parameters, gradients, *moments, corrected_at)

    @staticmethod
    def _update(parameters, gradients, exp_avgs, exp_avg_sqs, group: dict) -> None:
        """The update of one group, in place, with PyTorch's operations."""
        raise NotImplementedError


class AdamW(_AdaptiveMoments):
    """Adam with decoupled weight decay. Arguments: `_AdaptiveMoments`.

    For a parameter p with gradient g:
    m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
    p = p - lr (m / (1 - b1^step) / (sqrt(v / (1 - b2^step)) + eps) + decay p),
    without the two corrections by 1 - b^step where `bias_correction` is off.
    """

    takes_ratios = False

    @staticmethod
    def _update(parameters, gradients, exp_avgs, exp_avg_sqs, group: dict) -> None:
        """By the kernel that `torch.optim.AdamW(fused=True)` launches."""
        step = torch.full((), group["step"], dtype=torch.float32, device=parameters[0].device)
        torch._fused_adamw_(
            parameters,
            gradients,
            exp_avgs,
            exp_avg_sqs,
            [],
            [step] * len(parameters),
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


class LAMB(_AdaptiveMoments):
    """Layer-wise adaptive moments for large batches. Arguments: `_AdaptiveMoments`.

    Per weight block p with gradient g:
    m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
    u = m / (1 - b1^step) / (sqrt(v / (1 - b2^step)) + eps) + decay p;
    p = p - lr r u, with r = |p| / |u| where both norms are positive and the group has weight decay, else 1.

    A group's `n_blocks` divides the first dimension of its parameters into that many equal blocks, each with a trust
    ratio of its own: query, key and value are one parameter, and were published as three. apex's LAMB cannot do this.

    PyTorch's operations leave the update u in the gradients, which saves a buffer of the model's size, as apex does.
    """

    takes_ratios = True

    @staticmethod
    def _update(parameters, gradients, exp_avgs, exp_avg_sqs, group: dict) -> None:
        """Without a temporary of the weights' size."""
        if (n_blocks := group["n_blocks"]) > 1:
            parameters, gradients, exp_avgs, exp_avg_sqs = (
                [block for tensor in column for block in tensor.chunk(n_blocks)]
                for column in (parameters, gradients, exp_avgs, exp_avg_sqs)
            )
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
        parameter_norms = torch.stack(torch._foreach_norm(parameters))
        update_norms = torch.stack(torch._foreach_norm(updates))
        either_zero = (parameter_norms == 0) | (update_norms == 0)
        ratios = (parameter_norms / update_norms).masked_fill_(either_zero, 1.0)
        torch._foreach_addcmul_(parameters, updates, list(ratios.unbind()), -group["lr"])


@torch.no_grad()
def gradient_norm(param_groups: list[dict]) -> Tensor:
    """The norm over the gradients of all groups, a 0-d fp32 tensor on their device; nothing is read on the host."""
    norms = torch._foreach_norm(_gradients(param_groups), dtype=torch.float32)
    return torch.linalg.vector_norm(torch.stack(norms))


@torch.no_grad()
def clip_and_step(optimizer: Any, norm: Tensor, max_grad_norm: float, loss_scale: float = 1.0) -> None:
    """A step with gradients divided by `loss_scale` times max(1, norm / max_grad_norm).

    The optimizer divides where it `divides_gradients`; else a pass before its step does.

    Args:
        norm: of the gradients as they will be without the loss scale, 0-d.
        max_grad_norm: `math.inf` does not clip.
    """
    divisor = None
    if max_grad_norm < math.inf:
        divisor = (norm / max_grad_norm).clamp(min=1.0) * loss_scale
    elif loss_scale != 1.0:
        divisor = torch.full_like(norm, loss_scale)
    if getattr(optimizer, "divides_gradients", False):
        optimizer.step(gradient_divisor=divisor)
        return
    if divisor is not None:
        torch._foreach_div_(_gradients(optimizer.param_groups), divisor)
    optimizer.step()


def _gradients(param_groups: list[dict]) -> list[Tensor]:
    return [p.grad for group in param_groups for p in group["params"] if p.grad is not None]


def parameter_groups(model: nn.Module, weight_decay: float = 0.01) -> list[dict]:
    """Groups for any optimizer here: weights are decayed, and vectors (biases and LayerNorm's scales) are not.

    A module that has `n_blocks` holds so many weights in one (kernels.layers.Linear); weights go to groups by it.
    Checkpoints know a parameter by its place in the groups, so the order is fixed: by `n_blocks`, undecayed last, and
    within a group that of the model. A group without parameters is not made. A parameter that several modules share is
    in the group of the first.
    """
    decayed, undecayed, seen = collections.defaultdict(list), [], set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                column = undecayed if parameter.dim() < 2 else decayed[getattr(module, "n_blocks", 1)]
                column.append(parameter)
    groups = [{"params": decayed[n], "weight_decay": weight_decay, "n_blocks": n} for n in sorted(decayed)]
    if undecayed:
        groups.append({"params": undecayed, "weight_decay": 0.0, "n_blocks": 1})
    return groups


def build_optimizer(
    name: str,
    groups: list[dict],
    lr: float,
    max_grad_norm: float = 1.0,
    kernels: str = "torch",
    *,
    bias_correction: bool = True,
    betas: tuple[float, float] = BETAS,
    eps: float = EPSILON,
) -> torch.optim.Optimizer:
    """An optimizer over these groups; raises UserError where apex or Triton is asked for and cannot be used.

    Args:
        name: one of `OPTIMIZERS`.
        groups: from `parameter_groups`.
        lr: learning rate of the first step.
        max_grad_norm: for those that clip themselves, see `clips_itself`.
        kernels: `triton` takes kernels of our own, `torch` PyTorch's operations; apex's optimizers have theirs.
        bias_correction: whether moments are divided by 1 - beta^step.
        betas, eps: see `_AdaptiveMoments`.
    """
    shared = {"lr": lr, "betas": betas, "eps": eps, "bias_correction": bias_correction}
    if name in ("lamb", "adamw"):
        return {"lamb": LAMB, "adamw": AdamW}[name](groups, kernels=kernels, **shared)
    if problem := unavailable(name):
        raise UserError(problem)
    apex = importlib.import_module("apex.optimizers")
    if name == "apex_fused_adam":
        return apex.FusedAdam(groups, **shared, adam_w_mode=True)
    return apex.FusedLAMB(groups, **shared, max_grad_norm=max_grad_norm)


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
    step: int,
    total_steps: int,
    warmup_proportion: float,
    base_lr: float,
    schedule: str = "poly",
    warmup_steps: int = 0,
    start_warmup_step: int = 0,
) -> float:
    """The rate of optimizer step `step`, of 1 to `total_steps`; later steps keep the last one's.

    It rises linearly from 0 to `base_lr` over the first `warmup_proportion` of the steps. After that `linear` and
    `cosine` fall from `base_lr` to 0 at the last step and `constant` stays. `poly` is NVIDIA's and Google's: it falls
    as (1 - step / total_steps) ** 0.5, counted from the first step and not from the end of warm-up, and so drops at
    once from `base_lr` to `base_lr * (1 - warmup_proportion) ** 0.5`.

    `mlperf` counts the steps s that are done, from 0, and its warm-up in steps: s lies in it as long as
    s - `start_warmup_step` < `warmup_steps`, at `base_lr` times the quotient of the two. Otherwise the rate is
    `base_lr * (1 - s / total_steps)`, counted from the first step, to which it drops at once.
    """
    if schedule == "mlperf":
        done = min(step - 1, total_steps)
        since = done - start_warmup_step
        return base_lr * (since / warmup_steps if since < warmup_steps else 1 - done / total_steps)
    progress = min(step / total_steps, 1.0)
    if progress < warmup_proportion:
        return base_lr * progress / warmup_proportion
    decayed = (progress - warmup_proportion) / (1 - warmup_proportion)
    if schedule == "poly":
        return base_lr * (1 - progress) ** POLY_DEGREE
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
        optimizer: Any,
        total_steps: int,
        warmup_proportion: float,
        base_lr: float,
        schedule: str = "poly",
        warmup_steps: int = 0,
        start_warmup_step: int = 0,
    ):
        self.optimizer = optimizer
        self.shape = (total_steps, warmup_proportion, base_lr, schedule, warmup_steps, start_warmup_step)
        self.load_state_dict({"finished_steps": 0})

    @property
    def learning_rate(self) -> float:
        """The rate that the coming optimizer step will use."""
        return learning_rate(self.finished_steps + 1, *self.shape)

    def step(self) -> None:
        self.load_state_dict({"finished_steps": self.finished_steps + 1})

    def state_dict(self) -> dict:
        return {"finished_steps": self.finished_steps}

    def load_state_dict(self, state: dict) -> None:
        """Load after the optimizer's state, whose groups carry the rate of the run that was saved."""
        self.finished_steps = state["finished_steps"]
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
