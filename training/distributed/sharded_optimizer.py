"""Optimizer state divided over ranks: ZeRO stage 1, of whole parameters.

Adam's and LAMB's two moments take twice the memory of the weights, and without this every rank holds all of them. Here
a rank holds those of its share of the parameters, updates these, and sends them to the others. Nothing else changes:
the gradients are the same on all ranks after the reduction, and a parameter is updated by the same operations wherever
that happens, so the weights are those of the unsharded optimizer bit for bit.

PyTorch's ZeroRedundancyOptimizer does the same, but gathers its state as one pickle per rank through the device, sends
parameters one by one, and gives a rank empty groups, which not every optimizer takes; how parameters are sent is that
of PyTorch's DistributedDataParallel. Parameters are never cut, since LAMB's trust ratio belongs to a whole weight.

Source: Rajbhandari et al. 2019, https://arxiv.org/abs/1910.02054.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from training.checkpointing.writer import to_host

BUCKET_BYTES = 32 * 2**20  # enough for a link's full bandwidth, little beside the weights


class ShardedOptimizer:
    """An optimizer over all parameters of which each rank holds a share. Looks like a `torch.optim.Optimizer`.

    A method that says it is collective must be called by all ranks of the default process group, in one order.
    The weights must be equal on all ranks from the start, and the gradients before each step (any clipping, which is
    by the norm over all of them, or the divisor for it included). An optimizer that clips by itself sees its share
    only: give none.

    Args:
        build: makes the optimizer from groups. It is called with all groups, for what the optimizer adds to them, and
            with the groups of this rank's share; state must come into being in its first step only.
        groups: dicts with `params` and what else belongs to a group, the same on all ranks.
        rank: of this process.
        world_size: the number of ranks; with 1 no process group is needed.
        bucket_bytes: parameters are sent together up to this size.
    """

    def __init__(
        self,
        build: Callable[[list[dict]], torch.optim.Optimizer],
        groups: list[dict],
        rank: int,
        world_size: int,
        bucket_bytes: int = BUCKET_BYTES,
    ):
        self.rank, self.world_size, self.bucket_bytes = rank, world_size, bucket_bytes
        # Never stepped: it holds the groups, and knows the form that a state has.
        self._whole = build([{**group, "params": list(group["params"])} for group in groups])
        self._parameters = [p for group in self._whole.param_groups for p in group["params"]]
        self._owners = partition([p.numel() for p in self._parameters], world_size)
        self._share = self._groups_of_share()
        mine = [
            {**groups[group], "params": [self._parameters[index] for index in indices]}
            for group, indices in self._share.items()
        ]
        self._inner = build(mine) if mine else None

    def _groups_of_share(self) -> dict[int, list[int]]:
        """Group to the indices, counted over all groups, of its parameters that are this rank's; no empty groups."""
        share = {}
        start = 0
        for group, entries in enumerate(self._whole.param_groups):
            end = start + len(entries["params"])
            if indices := [index for index in range(start, end) if self._owners[index] == self.rank]:
                share[group] = indices
            start = end
        return share

    @property
    def param_groups(self) -> list[dict]:
        """The groups with all parameters. What is written into them (rate, decay, step) holds from the next step on.

        A `step` that the optimizer counts is current in the groups of which this rank has a share.
        """
        return self._whole.param_groups

    @property
    def divides_gradients(self) -> bool:
        """Whether `step` takes a divisor of the gradients, as that of the optimizer which is built does."""
        return getattr(self._whole, "divides_gradients", False)

    def step(self, **options: Any) -> None:
        """Update the parameters of all ranks. Collective.

        Args:
            options: for the optimizer's own step.
        """
        if self._inner is not None:
            for group, of_share in zip(self._share, self._inner.param_groups, strict=True):
                of_share.update(_hyperparameters(self.param_groups[group]))
            self._inner.step(**options)
            self._read_groups_of_share()
        if self.world_size > 1:
            self._broadcast_parameters()

    def _read_groups_of_share(self) -> None:
        """Take over what the optimizer of this rank's share has written into its groups."""
        for group, of_share in zip(self._share, self._inner.param_groups, strict=True):
            self.param_groups[group].update(_hyperparameters(of_share))

    def _broadcast_parameters(self) -> None:
        for owner in range(self.world_size):
            owned = [p.detach() for p, its in zip(self._parameters, self._owners, strict=True) if its == owner]
            if owned:
                dist._broadcast_coalesced(dist.group.WORLD, owned, self.bucket_bytes, owner)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters."""
        self._whole.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any] | None:
        """On rank 0 what the unsharded optimizer's would be, the other ranks' part in host memory; None elsewhere.

        Collective. On a GPU it needs room for one tensor.
        """
        mine = self._state_of_share()
        hyperparameters = {group: _hyperparameters(self.param_groups[group]) for group in self._share}
        share = hyperparameters, _map_tensors(lambda tensor: tensor.to("meta"), mine)
        shares: list[Any] = [share] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(shares, share)
        state = dict(mine)
        for owner, (_, forms) in enumerate(shares[1:], start=1):
            send = functools.partial(self._sent_to_rank_0, owner)
            state |= _map_tensors(send, mine if owner == self.rank else forms)
        if self.rank != 0:
            return None
        whole = self._whole.state_dict()
        for hyperparameters, _ in shares:
            for group, values in hyperparameters.items():
                whole["param_groups"][group].update(values)
        return {**whole, "state": {index: state[index] for index in sorted(state)}}

    def _state_of_share(self) -> dict[int, dict[str, Any]]:
        """The state of this rank's parameters, by their indices over all groups."""
        indices = [index for indices in self._share.values() for index in indices]
        state = self._inner.state_dict()["state"] if self._inner is not None else {}
        return {indices[number]: values for number, values in state.items()}

    def _sent_to_rank_0(self, owner: int, tensor: Tensor) -> Tensor:
        """A tensor of the owner's state, in host memory on rank 0; elsewhere its form. The form is all others give.

        By broadcasts, which waste some bandwidth, as their connections are there already: NCCL would set up, and keep
        the buffers of, another one for each pair that sends and receives.
        """
        device = self._parameters[0].device
        sent = tensor.to(device).contiguous() if owner == self.rank else torch.empty_like(tensor, device=device)
        dist.broadcast(sent, owner)
        return to_host(sent) if self.rank == 0 else tensor

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
        share = [index for indices in self._share.values() for index in indices]
        self._inner.load_state_dict(
            {
                "state": {index: state[index] for index in share if index in state},
                "param_groups": [{**groups[group], "params": indices} for group, indices in self._share.items()],
            }
        )
        self._read_groups_of_share()


def partition(sizes: list[int], n_shares: int) -> list[int]:
    """The share that each item goes to: the largest item first, always to the share that is the smallest so far."""
    totals = [0] * n_shares
    shares = [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        share = totals.index(min(totals))
        shares[index] = share
        totals[share] += sizes[index]
    return shares


def _hyperparameters(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def _map_tensors(function: Callable[[Tensor], Tensor], state: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """A state with each tensor replaced."""
    return {
        index: {key: function(value) if torch.is_tensor(value) else value for key, value in values.items()}
        for index, values in state.items()
    }
