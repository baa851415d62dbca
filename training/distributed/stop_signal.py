"""A warning that the job is about to end, turned into one orderly stop of all ranks.

Slurm sends SIGUSR1 some time before a job's limit (`--signal`) and SIGTERM before it kills, often to one process only,
and to each at its own moment. A rank that stopped alone would leave the others in a collective for ever. So the handler
only sets a flag, and the ranks vote on it at every micro-batch: the all-reduce of one vote runs while the next
micro-batch is computed and is read one call later, so that nobody waits for it and all learn of it at the same call.
"""

import signal
from types import FrameType

import torch
import torch.distributed as dist

from training.distributed.world import World

REQUEUE_EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again. A batch script requeues the job on this and no other

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopSignal:
    """Context manager of the main thread: inside, `SIGNALS` ask for a stop instead of ending the process.

    Args:
        world: whose ranks vote; all of them enter, and call `agreed` equally often.
    """

    def __init__(self, world: World):
        self.received: str | None = None  # name of the first signal that this process got
        self._world = world
        self._vote: tuple[dist.Work, torch.Tensor] | None = None

    def __enter__(self) -> "StopSignal":
        self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if error_type is None:
            self._read_vote()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name

    def agreed(self) -> bool:
        """Whether all ranks stop here: True at the same call on each, one call after a rank's flag was seen set.

        Alone, it is the flag itself. Raises what torch.distributed raises when a rank is lost.
        """
        if self._world.size == 1:
            return self.received is not None
        agreed = self._read_vote()
        flag = torch.tensor(int(self.received is not None))
        vote = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._world.control_group, async_op=True)
        self._vote = (vote, flag)
        return agreed

    def _read_vote(self) -> bool:
        if self._vote is None:
            return False
        (vote, flag), self._vote = self._vote, None
        vote.wait()
        return bool(flag)
