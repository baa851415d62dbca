"""Both phases of a tiny pre-training in one folder, on shards of two lengths; a run resumes from its checkpoints."""

from pretraining_runs import VOCAB, command, make_inputs
from shards import write_shards

PHASE1_STEPS, PHASE2_STEPS, PHASE2_LENGTH = 12, 8, 24


def make_two_phase_inputs(folder):
    """`make_inputs`, and longer sequences in `data2`; returns folder."""
    make_inputs(folder)
    write_shards(folder / "data2", rows_per_file=(20, 9), seq_length=PHASE2_LENGTH, vocab_size=VOCAB)
    return folder


def phase1(folder, output, **changes):
    """The arguments of a run of phase 1, with its output in folder / output."""
    flags = {"output_dir": folder / output, "max_steps": PHASE1_STEPS, "num_steps_per_checkpoint": 2}
    return command(folder, **{**flags, "resume_from_checkpoint": True, **changes})


def phase2(folder, output, **changes):
    """Those of phase 2, which resumes what phase 1 left."""
    flags = {
        "phase2": True,
        "phase1_end_step": PHASE1_STEPS,
        "input_dir": folder / "data2",
        "max_seq_length": PHASE2_LENGTH,
        "learning_rate": 0.006,
        "max_steps": PHASE2_STEPS,
    }
    return phase1(folder, output, **{**flags, **changes})
