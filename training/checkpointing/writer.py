"""Checkpoints are written while training goes on.

A checkpoint of BERT-large is 4 GB, and while one rank saves it all others wait. Copying it to host memory takes a tenth
of the time of writing and syncing it, or less on a slower disk (benchmark/checkpoint.py). So the copy is made at once,
which is what the other ranks wait for in their next reduction, and one thread writes it to disk.

A write that fails does not end the run, as the next may succeed (somebody makes room) and the earlier checkpoints are
still there. Only when it was the last one of the run is it an error.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from training.checkpointing.checkpoint import save_checkpoint


class CheckpointWriter:
    """A context in which `save` returns as soon as the state is copied. Leaving it, or Python, waits for the write.

    Args:
        report: told of each failed write in a sentence, at once, from the writing thread.

    Raises:
        UserError: on leaving the context without another error, when the last write failed.
    """

    def __init__(self, report: Callable[[str], None]):
        self._report = report
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint-writer")
        self._write: Future[UserError | None] | None = None

    def save(self, output_dir: Path | str, step: int, state: dict[str, Any], **retention: int | None) -> None:
        """Copy a state and have `save_checkpoint` write the copy; its arguments. There is at most one copy.

        Raises:
            TypeError: see `to_host`.
        """
        if self._write:
            self._write.result()  # raises what went wrong in it, but for what a later one may mend
        self._write = self._thread.submit(self._save, output_dir, step, to_host(state), retention)

    def _save(self, output_dir: Path | str, step: int, state: dict[str, Any], retention: dict) -> UserError | None:
        try:
            save_checkpoint(output_dir, step, state, **retention)
        except UserError as error:
            for sentence in error.sentences:
                self._report(sentence)
            return UserError(error.problems)  # without the traceback, whose frames hold the copy of the state
        return None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *exception: object) -> None:
        self._thread.shutdown(wait=True)
        if exception_type is None and self._write and (failure := self._write.result()):
            raise failure


def to_host(state: Any) -> Any:
    """A copy of nested dicts, lists and tuples whose tensors lie in host memory, contiguous and each by itself.

    A view is so saved without the rest of its storage. A tensor that occurs twice is copied once. Copies from a GPU run
    together, into pinned memory, which PyTorch keeps for the next time.

    Raises:
        TypeError: it holds something that is neither a tensor nor a primitive, and could not be loaded again.
    """
    copy = _copy(state, {})
    if torch.cuda.is_initialized():
        torch.cuda.current_stream().synchronize()
    return copy


def _copy(value: Any, copies: dict[tuple, Tensor]) -> Any:
    if isinstance(value, Tensor):
        key = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if key not in copies:
            host = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            copies[key] = host.copy_(value.detach(), non_blocking=value.is_cuda)
        return copies[key]
    if isinstance(value, dict):
        return {key: _copy(entry, copies) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy(entry, copies) for entry in value)
    # Exact types: numpy's float64 is a float too, and would not be loaded.
    if value is not None and type(value) not in (bool, int, float, str, bytes):
        raise TypeError(
            f"a checkpoint holds tensors and primitives only, not a {type(value).__name__} such as {value!r}"
        )
    return value
