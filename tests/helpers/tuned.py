"""Kernels with other settings than the table's."""

import torch

from kernels import tuning


def tune(monkeypatch, kernel: str, **changed: int) -> None:
    """Until the patch is undone, a kernel has some of its settings changed, on every device."""
    row = tuning.row(torch.device("cpu"))
    changed_row = {**row, kernel: {**row[kernel], **changed}}
    monkeypatch.setattr(tuning, "row", lambda device: changed_row)
