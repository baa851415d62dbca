"""Optimizer state divided over ranks: ZeRO stage 1, of whole parameters.

Adam's and LAMB's two moments take twice the memory of the weights, and without this every rank holds all of them. Here
a rank holds those of its share of the parameters, updates these, and sends them to the others. Nothing else changes:
the gradients are the same on all ranks after the reduction, and a parameter is updated by the same operations wherever
that happens, so the weights are those of the unsharded optimizer bit for bit.

PyTorch's ZeroRedundancyOptimizer does the same, but gathers its state as one pickle per rank through the device,
sends parameters one by one (or moves them into buckets of its own), and gives a rank empty groups, which not every
optimizer takes. Parameters are never cut, since LAMB's trust ratio belongs to a whole weight.

Source: Rajbhandari et al. 2019, https://arxiv.org/abs/1910.02054.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from training.checkpointing.writer import to_host

BUCKET_BYTES = 32 * 2**20  # enough for a link's full bandwidth, little beside the weights
BUCKETS_IN_FLIGHT = 2  # one is sent while the next is packed


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
        bucket_bytes: tensors are sent together up to this size.
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
        """Group to the places, counted over all groups, of its parameters that are this rank's; no empty groups."""
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

    @torch.no_grad()
    def _broadcast_parameters(self) -> None:
        in_flight: collections.deque = collections.deque()

        def unpack_oldest() -> None:
            work, flat, bucket = in_flight.popleft()
            work.wait()
            torch._foreach_copy_(bucket, _unpacked(flat, bucket))

        for owner in range(self.world_size):
            owned = [p for p, its_owner in zip(self._parameters, self._owners, strict=True) if its_owner == owner]
            for bucket in buckets(owned, self.bucket_bytes):
                if len(in_flight) == BUCKETS_IN_FLIGHT:
                    unpack_oldest()
                flat = self._packed(bucket, owner)
                in_flight.append((dist.broadcast(flat, owner, async_op=True), flat, bucket))
        while in_flight:
            unpack_oldest()

    def _packed(self, bucket: list[Tensor], owner: int) -> Tensor:
        """The tensors one after the other, on the parameters' device; where they are another rank's, room for them."""
        device = self._parameters[0].device
        if owner == self.rank:
            return torch.cat([tensor.detach().to(device).flatten() for tensor in bucket])
        return torch.empty(sum(tensor.numel() for tensor in bucket), dtype=bucket[0].dtype, device=device)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters."""
        self._whole.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any] | None:
        """On rank 0 what the unsharded optimizer's would be, the other ranks' part in host memory; None elsewhere.

        Collective. On a GPU it needs room for one bucket.
        """
        state = self._state_of_share()
        hyperparameters = {group: _hyperparameters(self.param_groups[group]) for group in self._share}
        shares: list[Any] = [(hyperparameters, _map_tensors(lambda tensor: tensor.to("meta"), state))]
        if self.world_size > 1:
            mine, shares = shares[0], [None] * self.world_size
            dist.all_gather_object(shares, mine)
        for owner in range(1, self.world_size):
            state |= self._sent_to_rank_0(owner, state if owner == self.rank else shares[owner][1])
        if self.rank != 0:
            return None
        whole = self._whole.state_dict()
        for hyperparameters, _ in shares:
            for group, values in hyperparameters.items():
                whole["param_groups"][group].update(values)
        return {**whole, "state": {index: state[index] for index in sorted(state)}}

    def _state_of_share(self) -> dict[int, dict[str, Any]]:
        """The state of this rank's parameters, by their places over all groups."""
        places = [index for indices in self._share.values() for index in indices]
        state = self._inner.state_dict()["state"] if self._inner is not None else {}
        return {places[number]: values for number, values in state.items()}

    def _sent_to_rank_0(self, owner: int, state: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
        """The state of another rank's parameters on rank 0, nothing elsewhere; of the tensors given, forms are enough.

        By broadcasts, which waste some bandwidth, as their connections are there already: NCCL would set up, and keep
        the buffers of, another one for each pair that sends and receives.
        """
        tensors = [value for values in state.values() for value in values.values() if torch.is_tensor(value)]
        received: list[Tensor] = []
        for bucket in buckets(tensors, self.bucket_bytes):
            flat = self._packed(bucket, owner)
            dist.broadcast(flat, owner)
            if self.rank == 0:
                received.extend(_unpacked(to_host(flat), bucket))
        if self.rank != 0:
            return {}
        in_order = iter(received)
        return _map_tensors(lambda form: next(in_order), state)

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
        places = [index for indices in self._share.values() for index in indices]
        self._inner.load_state_dict(
            {
                "state": {index: state[index] for index in places if index in state},
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


def buckets(tensors: Iterable[Tensor], n_bytes: int) -> Iterator[list[Tensor]]:
    """The tensors in order, in lists of one dtype and of at most `n_bytes`, or of a single tensor above that."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size + tensor.nbytes > n_bytes or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket


def _unpacked(flat: Tensor, bucket: list[Tensor]) -> list[Tensor]:
    """Views into `flat` of the shapes of a bucket's tensors."""
    parts = flat.split([tensor.numel() for tensor in bucket])
    return [part.view(tensor.shape) for part, tensor in zip(parts, bucket, strict=True)]


def _hyperparameters(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def _map_tensors(function: Callable[[Tensor], Tensor], state: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """A state with each tensor replaced."""
    return {
        index: {key: function(value) if torch.is_tensor(value) else value for key, value in values.items()}
        for index, values in state.items()
    }
