"""The loss scale of fp16 training, which keeps small gradients above fp16's smallest number, 6e-8.

PyTorch's GradScaler does the first half of this. What runs of days die of is the other half: a scale that halves down
to zero while nobody looks, and a schedule that goes on meanwhile. So there is a floor, an end after so many skipped
steps in a row, and skipped steps are no steps at all.

The scale is a Python number: whether a step is skipped decides what the host does next (the schedule, the log), so an
fp16 step waits for the device once, which bf16 and fp32 never do.

Source: Micikevicius et al. 2017, https://arxiv.org/abs/1710.03740, section 3.2.
"""

from typing import Any

FACTOR = 2.0
GROWTH_INTERVAL = 2000  # steps without a skip before the scale is doubled, apex's and PyTorch's


class LossScale:
    """What the loss is multiplied by before the backward pass.

    Args:
        initial: the first scale of a dynamic one, or the constant of a static one.
        dynamic: halve after a skipped step, double after `GROWTH_INTERVAL` steps without one.
        floor: a dynamic scale never falls below this.
    """

    def __init__(self, initial: float, dynamic: bool = True, floor: float = 1.0):
        self.scale, self.dynamic, self.floor = float(initial), dynamic, float(floor)
        self.steps_since_change = 0
        self.skipped_in_a_row = 0
        self.skipped = 0

    def step_taken(self) -> None:
        """A step with this scale was finite."""
        self.skipped_in_a_row = 0
        self.steps_since_change += 1
        if self.dynamic and self.steps_since_change >= GROWTH_INTERVAL:
            self.scale *= FACTOR
            self.steps_since_change = 0

    def step_skipped(self) -> None:
        """A step's gradient was not finite, and the step was not taken."""
        self.skipped += 1
        self.skipped_in_a_row += 1
        self.steps_since_change = 0
        if self.dynamic:
            self.scale = max(self.scale / FACTOR, min(self.floor, self.scale))

    def state_dict(self) -> dict[str, Any]:
        return {
            "scale": self.scale,
            "steps_since_change": self.steps_since_change,
            "skipped_in_a_row": self.skipped_in_a_row,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """A static scale keeps the value that this run was told."""
        if self.dynamic:
            self.scale = state["scale"]
        self.steps_since_change = state["steps_since_change"]
        self.skipped_in_a_row = state["skipped_in_a_row"]
        self.skipped = state["skipped"]
