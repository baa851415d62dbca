"""Optimizer state divided over ranks: ZeRO stage 1, of whole parameters.

Adam's and LAMB's two moments take twice the memory of the weights. Here a rank holds those of its share of the
parameters, updates these, and sends them to the others. A parameter is updated by the same operations wherever that
happens, so the weights are those of the unsharded optimizer bit for bit. Parameters are never cut, since LAMB's trust
ratio belongs to a whole weight.

PyTorch's ZeroRedundancyOptimizer does the same, but gathers its state as one pickle per rank through the device, sends
parameters one by one, and gives a rank empty groups, which not every optimizer takes.

Source: Rajbhandari et al. 2019, https://arxiv.org/abs/1910.02054.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from training.checkpointing.writer import to_host

BUCKET_BYTES = 32 * 2**20  # parameters are sent together up to this: enough for a link's full bandwidth


class ShardedOptimizer:
    """An optimizer over all parameters of which each rank holds a share. Looks like a `torch.optim.Optimizer`.

    All ranks call `step` and `state_dict` together. The weights must be equal on all ranks from the start, and so must
    be the gradients, and any divisor of them, before each step. An optimizer that clips by itself sees its share only.

    Args:
        build: makes the optimizer from groups, of all parameters and of this rank's share; its state must come into
            being in its first step only.
        groups: dicts with `params` and what else belongs to a group, the same on all ranks.
    """

    def __init__(
        self, build: Callable[[list[dict]], torch.optim.Optimizer], groups: list[dict], rank: int, world_size: int
    ):
        self._rank, self._world_size = rank, world_size
        # Never stepped: it holds the groups, and knows the form that a state has.
        self._whole = build([{**group, "params": list(group["params"])} for group in groups])
        self._parameters = [p for group in groups for p in group["params"]]
        self._owners = partition([p.numel() for p in self._parameters], world_size)
        group_of = [number for number, group in enumerate(groups) for _ in group["params"]]
        # Indices, counted over all groups, of this rank's parameters; the same by group, without empty ones.
        self._indices = [index for index, owner in enumerate(self._owners) if owner == rank]
        self._share: dict[int, list[int]] = {}
        for index in self._indices:
            self._share.setdefault(group_of[index], []).append(index)
        mine = [
            {**groups[group], "params": [self._parameters[index] for index in indices]}
            for group, indices in self._share.items()
        ]
        self._inner = build(mine) if mine else None

    @property
    def param_groups(self) -> list[dict]:
        """The groups with all parameters. What is written into them (rate, decay, step) holds from the next step on."""
        return self._whole.param_groups

    @property
    def divides_gradients(self) -> bool:
        """Whether `step` takes a divisor of the gradients, as that of the optimizer which is built does."""
        return getattr(self._whole, "divides_gradients", False)

    @property
    def takes_bf16_gradients(self) -> bool:
        """Whether gradients may be in bf16, as that of the optimizer which is built does."""
        return getattr(self._whole, "takes_bf16_gradients", False)

    def step(self, **options: Any) -> None:
        """Update the parameters of all ranks; `options` are the optimizer's own."""
        if self._inner is not None:
            for group, of_share in zip(self._share, self._inner.param_groups, strict=True):
                of_share.update(_settings(self.param_groups[group]))
            self._inner.step(**options)
            self._read_share()
        for owner in range(self._world_size):
            owned = [p.detach() for p, its in zip(self._parameters, self._owners, strict=True) if its == owner]
            if owned:
                dist._broadcast_coalesced(dist.group.WORLD, owned, BUCKET_BYTES, owner)

    def _read_share(self) -> None:
        """Take over what the optimizer of this rank's share has written into its groups."""
        for group, of_share in zip(self._share, self._inner.param_groups, strict=True):
            self.param_groups[group].update(_settings(of_share))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters."""
        self._whole.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any] | None:
        """On rank 0 what the unsharded optimizer's would be, the other ranks' part in host memory; None elsewhere."""
        own = self._inner.state_dict()["state"] if self._inner is not None else {}
        mine = {self._indices[number]: values for number, values in own.items()}
        settings = {group: _settings(self.param_groups[group]) for group in self._share}
        shares: list[Any] = [None] * self._world_size
        dist.all_gather_object(shares, (settings, _map_tensors(lambda tensor: tensor.to("meta"), mine)))
        state = dict(mine)
        for owner, (_, forms) in enumerate(shares[1:], start=1):
            send = functools.partial(self._sent_to_rank_0, owner)
            state |= _map_tensors(send, mine if owner == self._rank else forms)
        if self._rank != 0:
            return None
        whole = self._whole.state_dict()
        for settings, _ in shares:
            for group, values in settings.items():
                whole["param_groups"][group].update(values)
        return {**whole, "state": {index: state[index] for index in sorted(state)}}

    def _sent_to_rank_0(self, owner: int, tensor: Tensor) -> Tensor:
        """A tensor of the owner's state, in host memory on rank 0; elsewhere its form, which is all that others give.

        By broadcasts, whose connections are there already: NCCL would keep buffers for each pair of ranks.
        """
        device = self._parameters[0].device
        sent = tensor.to(device).contiguous() if owner == self._rank else torch.empty_like(tensor, device=device)
        dist.broadcast(sent, owner)
        return to_host(sent) if self._rank == 0 else tensor

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take this rank's share of a state that `state_dict` or the unsharded optimizer's gave; the same on all ranks.

        As with PyTorch's optimizers, tensors that lie on the parameters' device already are not copied.

        Raises:
            ValueError: the groups differ in number or size.
        """
        self._whole.load_state_dict({**state_dict, "state": {}})
        if self._inner is None:
            return
        state, groups = state_dict["state"], state_dict["param_groups"]
        share = {index: state[index] for index in self._indices if index in state}
        share_groups = [{**groups[group], "params": indices} for group, indices in self._share.items()]
        self._inner.load_state_dict({"state": share, "param_groups": share_groups})
        self._read_share()


def partition(sizes: list[int], n_shares: int) -> list[int]:
    """The share that each item goes to: the largest item first, always to the share that is the smallest so far."""
    totals = [0] * n_shares
    shares = [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        share = totals.index(min(totals))
        shares[index] = share
        totals[share] += sizes[index]
    return shares


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def _map_tensors(function: Callable[[Tensor], Tensor], state: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """A state with each tensor replaced."""
    return {
        index: {key: function(value) if torch.is_tensor(value) else value for key, value in values.items()}
        for index, values in state.items()
    }
