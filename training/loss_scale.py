"""The loss scale of fp16 training, which keeps small gradients above fp16's smallest number, 6e-8.

Beside PyTorch's GradScaler there is a floor, an end after so many skipped steps in a row, and skipped steps are no
steps at all. The scale is a Python number, for which an fp16 step waits for the device once: whether a step is skipped
decides what the host does next.

Source: Micikevicius et al. 2017, https://arxiv.org/abs/1710.03740, section 3.2.
"""

import dataclasses
from typing import Any

GROWTH_INTERVAL = 2000  # steps without a skip before the scale is doubled, apex's and PyTorch's


@dataclasses.dataclass
class LossScale:
    """What the loss is multiplied by before the backward pass."""

    scale: float
    """The first of a dynamic scale, or the constant of a static one."""
    dynamic: bool = True
    """Halve after a skipped step, double after `GROWTH_INTERVAL` steps without one."""
    floor: float = 1.0
    """A dynamic scale never falls below this."""
    steps_since_change: int = 0
    skipped_in_a_row: int = 0
    skipped: int = 0

    def step_taken(self) -> None:
        """A step with this scale was finite."""
        self.skipped_in_a_row = 0
        self.steps_since_change += 1
        if self.dynamic and self.steps_since_change >= GROWTH_INTERVAL:
            self.scale *= 2
            self.steps_since_change = 0

    def step_skipped(self) -> None:
        """A step's gradient was not finite, and the step was not taken."""
        self.skipped += 1
        self.skipped_in_a_row += 1
        self.steps_since_change = 0
        if self.dynamic:
            self.scale = max(self.scale / 2, min(self.floor, self.scale))

    def state_dict(self) -> dict[str, Any]:
        state = dataclasses.asdict(self)
        return {name: state[name] for name in ("scale", "steps_since_change", "skipped_in_a_row", "skipped")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """A static scale keeps the value that this run was told."""
        for name in self.state_dict():
            if name != "scale" or self.dynamic:
                setattr(self, name, state[name])
