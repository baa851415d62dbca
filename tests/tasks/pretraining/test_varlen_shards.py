"""run_pretraining on NVIDIA's shards for MLPerf as they are."""

import pytest
from pretraining_runs import LENGTH, PREDICTIONS, VOCAB, command, losses, write_config
from varlen_shards import write_folders

from run_pretraining import main


@pytest.fixture
def folder(tmp_path):
    write_folders(tmp_path, (30, 25), LENGTH, PREDICTIONS, vocab_size=VOCAB)
    write_folders(tmp_path / "test", (7,), LENGTH, PREDICTIONS, seed=1, vocab_size=VOCAB)
    write_config(tmp_path / "config.json")
    return tmp_path


def test_a_run_on_packed_rows_that_is_resumed_is_that_on_padded_ones(folder):
    flags = {"max_steps": 6, "num_steps_per_checkpoint": 3}
    for kind in ("fixed", "packed"):
        flags |= {"input_dir": folder / kind, "eval_dir": folder / "test" / kind, "output_dir": folder / f"out_{kind}"}
        if kind == "packed":
            main(command(folder, **flags, steps_this_run=3))
        main(command(folder, **flags, resume_from_checkpoint=kind == "packed"))
    assert losses(folder / "out_packed") == losses(folder / "out_fixed")
    assert len(losses(folder / "out_fixed")) >= 6
