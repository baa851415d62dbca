"""What stands for CUDA's graphs on a CPU."""

import inspect


class Recorder:
    """Runs nothing while it records, as CUDA, and all of it again at every replay, which leaves losses where it did."""

    def __init__(self):
        self.n_recorded = self.n_replayed = 0

    def __call__(self, function):
        self.n_recorded += 1
        recording = inspect.getclosurevars(function).nonlocals["self"]

        def replay():
            self.n_replayed += 1
            before = getattr(recording, "_losses", None)
            function()
            if before is not None:
                recording._losses = before.copy_(recording._losses)

        return replay
