"""Several ranks against one process on the same samples: the same curve, whatever is sharded, compressed or resumed.

Dropout is on throughout: the same samples draw the same random numbers on any number of ranks.
"""

import os
import re
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from distributed_runs import finish, run_forked, train
from graph_recorder import Recorder
from pretraining_runs import assert_equal_checkpoints, command, curve, make_inputs, summary, write_config
from shards import write_shards

import training.cuda_graphs as cuda_graphs
from run_pretraining import main
from tasks import execution
from training import run
from training.distributed.averaging import Way
from training.distributed.copy_engines import CopyEngines
from training.step import TrainingStep

STEPS = 8
SIXTEEN_BITS = {"bf16": torch.bfloat16, "fp16": torch.float16}
SAME = ("average_loss", "mlm_loss", "nsp_loss", "learning_rate", "gradient_norm")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("data_parallel"))


def flags(folder, output, **changes):
    """16 sequences a step in micro-batches of 4, 55 in an epoch: 4 micro-batches for one process, 1 for four."""
    batch = {"train_batch_size": None, "gradient_accumulation_steps": None, "global_batch_size": 16}
    evaluation = {"eval_dir": folder / "test", "num_steps_per_evaluation": 3}
    fixed = {**batch, "micro_batch_size": 4, "max_steps": STEPS, **evaluation, "num_steps_per_checkpoint": STEPS}
    return command(folder, output_dir=folder / output, **{**fixed, **changes})


@pytest.fixture(scope="module")
def on_ranks(folder):
    """A function that gives the output folder of a run on so many ranks, made when first asked for."""
    made = {}

    def run(size, **changes):
        key = (size, *sorted(changes.items()))
        if key not in made:
            made[key] = folder / f"run{len(made)}"
            arguments = flags(folder, made[key].name, **changes)
            main(arguments) if size == 1 else finish(arguments, size)
        return made[key]

    return run


def assert_same_curve(output, expected_output, rel):
    actual, expected = curve(output), curve(expected_output)
    assert actual.keys() == expected.keys()
    assert len(actual) == STEPS
    for key, values in expected.items():
        for name in SAME:
            assert actual[key][name] == pytest.approx(values[name], rel=rel), (key, name)


@pytest.mark.parametrize("optimizer", ["lamb", "adamw"])
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_give_the_curve_of_one_process_with_that_many_times_the_accumulation(on_ranks, size, optimizer):
    assert_same_curve(on_ranks(size, optimizer=optimizer), on_ranks(1, optimizer=optimizer), rel=1e-5)


def test_the_curves_are_not_the_same_whatever_is_done(folder, on_ranks):
    """The comparison above is sharp: another order of the data alone, of the same samples, shows at once."""
    other = on_ranks(1, optimizer="lamb", seed=7)
    with pytest.raises(AssertionError):
        assert_same_curve(other, on_ranks(1, optimizer="lamb"), rel=1e-2)


@pytest.mark.parametrize("size", [2, 4])
def test_evaluation_on_ranks_is_that_of_one_process(on_ranks, size):
    """The 7 held-out sequences are 2 batches, so that two of four ranks have none."""
    one, several = on_ranks(1, optimizer="lamb"), on_ranks(size, optimizer="lamb")
    evaluated = [step for (_, step), values in curve(one).items() if "eval_mlm_loss" in values]
    assert evaluated == [3, 6, STEPS]
    pairs = [(curve(several)[1, step], curve(one)[1, step]) for step in evaluated] + [(summary(several), summary(one))]
    for actual, expected in pairs:
        scores = {name: value for name, value in expected.items() if name.startswith("eval_")}
        assert scores["eval_n_sequences"] == 7
        assert {name: actual[name] for name in scores} == pytest.approx(scores, rel=1e-5)


@pytest.mark.parametrize(("size", "optimizer"), [(2, "lamb"), (4, "lamb"), (2, "adamw")])
def test_a_sharded_optimizer_gives_the_same_bits(on_ranks, size, optimizer):
    unsharded = on_ranks(size, optimizer=optimizer)
    sharded = on_ranks(size, optimizer=optimizer, shard_optimizer=True)
    assert_same_curve(sharded, unsharded, rel=0)
    assert_equal_checkpoints(sharded / f"ckpt_{STEPS}.pt", unsharded / f"ckpt_{STEPS}.pt")


def train_looking_at_gradients(arguments):
    """Print before each update in which 16-bit types all gradients are exact, as none is that was made in fp32."""
    update = TrainingStep._update

    def look_and_update(step):
        gradients = [p.grad for group in step.optimizer.param_groups for p in group["params"]]
        exact = [name for name, dtype in SIXTEEN_BITS.items() if all(map(exact_in(dtype), gradients))]
        print("gradients in:", *exact, flush=True)
        return update(step)

    def exact_in(dtype):
        return lambda gradient: torch.equal(gradient.to(dtype).float(), gradient)

    TrainingStep._update = look_and_update
    train(arguments)


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({"reduce_dtype": "bf16"}, "bf16"),
        ({"reduce_dtype": "fp16"}, "fp16"),
        ({"allreduce_post_accumulation_fp16": True}, "fp16"),
        ({"reduce_dtype": "fp32"}, ""),
    ],
)
def test_a_compressed_reduction_stays_within_its_rounding(folder, on_ranks, changes, dtype):
    """Weights and dropout of the first step are the same, so its loss is, and its gradient differs by rounding alone.

    With the unit roundoff u, each rank's half of the mean is off by u, and their sum again. In norms that is
    u (|a| + |b| + |a + b|) / |a + b|: 2.4 u for halves at right angles; 4 u leaves room for some that partly cancel.
    The same share of the way that weights and loss have gone in later steps is at most what these are off by.
    """
    output = folder / "-".join(changes | {dtype: ""})
    for outcome in finish(flags(folder, output.name, **changes), 2, function=train_looking_at_gradients):
        seen = [line.split()[2:] for line in outcome.output.splitlines() if line.startswith("gradients in:")]
        assert seen == [[dtype] if dtype else []] * STEPS
    if not dtype:
        assert_same_curve(output, on_ranks(2, optimizer="lamb"), rel=0)
        return
    bound = 4 * torch.finfo(SIXTEEN_BITS[dtype]).eps / 2
    full, compressed = list(curve(on_ranks(2, optimizer="lamb")).values()), list(curve(output).values())
    assert compressed[0]["average_loss"] == full[0]["average_loss"]
    assert compressed[0]["gradient_norm"] != full[0]["gradient_norm"]
    assert compressed[0]["gradient_norm"] == pytest.approx(full[0]["gradient_norm"], rel=bound)
    losses = [values["average_loss"] for values in full]
    assert [values["average_loss"] for values in compressed] != losses
    way = max(losses) - min(losses)
    assert [values["average_loss"] for values in compressed] == pytest.approx(losses, rel=0, abs=bound * way)


def train_counting_reductions(arguments):
    """Print how often a bucket of gradients had been reduced over the ranks, after each optimizer step."""
    average, update = run.average, TrainingStep._update
    counted = [0]

    def average_and_count(bucket, reduce_dtype):
        counted[0] += 1
        average(bucket, reduce_dtype)

    def update_and_print(step):
        print("reductions:", counted[0], flush=True)
        return update(step)

    run.average, TrainingStep._update = average_and_count, update_and_print
    train(arguments)


@pytest.mark.parametrize(("once", "per_step"), [(True, 1), (False, 2)])
def test_gradients_are_reduced_once_per_step_or_once_per_micro_batch(folder, on_ranks, once, per_step):
    changes = {} if once else {"no-allreduce_post_accumulation": True, "overlap_reduction": True}
    arguments = flags(folder, f"counted_{once}", optimizer="lamb", **changes)
    outcomes = finish(arguments, 2, function=train_counting_reductions)
    assert " | gradients averaged after backward | " in outcomes[0].output  # whatever is asked for, on a CPU
    for outcome in outcomes:
        counts = [int(line.split()[1]) for line in outcome.output.splitlines() if line.startswith("reductions:")]
        assert counts == [per_step * step for step in range(1, STEPS + 1)]
    # What a micro-batch's reduction adds before the next one's is rounded elsewhere.
    assert_same_curve(folder / f"counted_{once}", on_ranks(2, optimizer="lamb"), rel=0 if once else 1e-5)


def train_by_graphs(arguments):
    """As where CUDA graphs pay, but for what records them; print how many micro-batches were replayed."""
    recorder = Recorder()
    execution._graphs_pay = lambda *values: True
    cuda_graphs.CudaRecorder = lambda: recorder
    train(arguments)
    print("replayed:", recorder.n_replayed, flush=True)


@pytest.mark.parametrize(("size", "rounded"), [(2, {}), (4, {}), (2, {"reduce_dtype": "bf16"})])
def test_graphs_give_the_same_curve(folder, on_ranks, size, rounded):
    """That of one process without graphs, or where the reduction rounds that of as many; resumed on the way."""
    output = folder / f"graphs{size}{len(rounded)}"
    exact = {"shard_optimizer": True, "no-allreduce_post_accumulation": True}
    changes = {"optimizer": "lamb", "resume_from_checkpoint": True, **(rounded or exact)}
    for steps in (2, None):
        arguments = flags(folder, output.name, **changes, steps_this_run=steps)
        outcomes = finish(arguments, size, function=train_by_graphs)
    assert all(re.search(r"^replayed: [1-9]", outcome.output, re.MULTILINE) for outcome in outcomes)
    assert {"forward_backward", "reduction"} <= summary(output)["part_seconds"].keys()
    assert_same_curve(output, on_ranks(size if rounded else 1, optimizer="lamb", **rounded), rel=1e-5)


class InFiles(CopyEngines):
    """Memory that all ranks reach, on a CPU: each rank's is a file. A rank waits for the others itself."""

    folder = Path()

    def _shared(self, n_elements, dtype):
        def mapped(rank):
            name = str(self.folder / f"{dtype} of {rank}")
            return torch.from_file(name, shared=True, size=n_elements, dtype=dtype)

        mapped(dist.get_rank()).zero_()
        dist.barrier()
        return [mapped(rank) for rank in range(dist.get_world_size())]

    def _meet(self):
        dist.barrier()


def train_by_copy_engines(arguments, folder):
    InFiles.folder = Path(folder)
    run.CopyEngines, run.way_to_average = InFiles, lambda *values: Way.COPY_ENGINES
    train(arguments)


@pytest.mark.parametrize(("size", "changes"), [(2, {}), (4, {"no-allreduce_post_accumulation": True})])
def test_copy_engines_give_the_same_curve(folder, on_ranks, tmp_path, size, changes):
    """Through memory of theirs in which backward leaves gradients, and beside it as far as a CPU can."""
    output = folder / f"engines{size}"
    arguments = flags(folder, output.name, optimizer="lamb", **changes)
    outcomes = finish(arguments, size, str(tmp_path), function=train_by_copy_engines)
    assert " | gradients averaged beside backward by copy engines | " in outcomes[0].output
    assert_same_curve(output, on_ranks(1, optimizer="lamb"), rel=1e-5)


@pytest.mark.parametrize(("sizes", "optimizer", "sharded"), [((1, 2, 4), "adamw", True), ((4, 1, 2), "lamb", False)])
def test_the_number_of_ranks_may_change_between_runs(folder, on_ranks, sizes, optimizer, sharded):
    output = folder / f"elastic{sizes}{optimizer}"
    changes = {"optimizer": optimizer, "shard_optimizer": sharded, "resume_from_checkpoint": True}
    for size, steps in zip(sizes, (3, 2, None), strict=True):
        arguments = flags(folder, output.name, **changes, steps_this_run=steps)
        main(arguments) if size == 1 else finish(arguments, size)
    assert_same_curve(output, on_ranks(1, optimizer=optimizer), rel=1e-5)


def train_in_a_folder_of_its_own(arguments, folder):
    os.chdir(Path(folder) / os.environ["RANK"])
    train(arguments)


@pytest.mark.parametrize("differing", ["training shards", "evaluation shards", "model"])
def test_ranks_that_see_different_files_are_told_apart(folder, tmp_path, differing):
    """Files of the same name on two machines. With other shards the ranks would wait for each other for long."""
    for rank, rows in ((0, 9), (1, 8)):
        own = tmp_path / str(rank)
        shutil.copytree(folder / "data", own / "data")
        shutil.copytree(folder / "test", own / "test")
        changes = {"intermediate_size": 4 * rows} if differing == "model" else {}
        write_config(own / "config.json", **changes)
        if differing == "training shards":
            write_shards(own / "data", rows_per_file=(30, rows))
        if differing == "evaluation shards":
            write_shards(own / "test", rows_per_file=(rows,), name="test")
    relative = {"input_dir": "data", "eval_dir": "test", "micro_batch_size": 4, "config_file": "config.json"}
    outcomes = run_forked(
        flags(folder, tmp_path / "out", **relative), 2, tmp_path, function=train_in_a_folder_of_its_own
    )
    assert [outcome.status for outcome in outcomes] == [2, 2]
    assert f"rank 1 and rank 0 see different files of the {differing}" in outcomes[0].output
