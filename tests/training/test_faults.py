"""Runs that are killed, asked to stop, out of disk or given a damaged checkpoint, against one that nothing happened to.

Two ranks, dropout on, two micro-batches of 4 a step on each. A run that goes on must log the same bits.
"""

import json
import os
import random
import resource
import signal
import threading

import distributed_runs
import pytest
import torch
from distributed_runs import PATIENCE, PYTHON, TORCHRUN, Job, finish, nothing_left, run_forked, threads_since, train
from pretraining_runs import assert_equal_checkpoints, curve
from ranks import free_port
from two_phases import PHASE1_STEPS, PHASE2_STEPS, make_two_phase_inputs, phase1, phase2

import run_pretraining
import training.run as training_run
from common.checkpoint_files import find_checkpoints
from common.errors import UserError
from file_utils import locked
from training.checkpointing import writer as checkpoint_writer
from training.distributed.stop_signal import REQUEUE_EXIT_CODE
from training.run import TrainingRun

ACCUMULATION = 2
KILLED = -signal.SIGKILL

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_two_phase_inputs(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def straight(folder):
    """The output folder of both phases on two ranks, to which nothing happened."""
    finish(phase1(folder, "straight"), 2)
    finish(phase2(folder, "straight"), 2)
    return folder / "straight"


def assert_same_run(output, expected_output, n_phases=1):
    """All logged steps of the first phase or of both, and the last checkpoint."""
    actual = {key: values for key, values in curve(output).items() if key[0] <= n_phases}
    expected = {key: values for key, values in curve(expected_output).items() if key[0] <= n_phases}
    assert len(expected) == PHASE1_STEPS + PHASE2_STEPS * (n_phases - 1)
    assert actual == expected  # exactly: JSON carries every bit of a float
    last = max(step for step, _ in find_checkpoints(output))
    assert last == len(expected)
    assert_equal_checkpoints(output / f"ckpt_{last}.pt", expected_output / f"ckpt_{last}.pt")


def newest_step(output):
    return max((step for step, _ in find_checkpoints(output)), default=0)


# Killed.


@pytest.mark.slow
def test_six_kills_over_both_phases_change_no_bit(folder, straight):
    generator = random.Random(10)
    victims = ["kill all", 0, 1] * 2
    generator.shuffle(victims)
    output = folder / "killed"
    for flags, start, steps, n_kills in ((phase1, 0, PHASE1_STEPS, 4), (phase2, PHASE1_STEPS, PHASE2_STEPS, 2)):
        for step in sorted(generator.sample(range(2, steps + 1), n_kills)):
            first = max(newest_step(output), start)
            micro_batch = (start + step - first - 1) * ACCUMULATION + generator.randint(1, ACCUMULATION)
            victim = victims.pop()
            fault = (victim, 0, micro_batch) if victim == "kill all" else ("kill", victim, micro_batch)
            outcomes = run_forked(flags(folder, "killed"), 2, fault)
            for rank, outcome in enumerate(outcomes):
                assert (outcome.status == KILLED) == (victim in ("kill all", rank)), outcome.output
                assert outcome.status != 0
            assert abs(outcomes[0].seconds - outcomes[1].seconds) < 2 * distributed_runs.HEARTBEAT_LIMIT
            assert newest_step(output) < start + step
        finish(flags(folder, "killed"), 2)
    assert victims == []
    assert_same_run(output, straight, n_phases=2)
    assert not list(output.glob(".ckpt_*"))  # nothing half written is left either


def endless(folder, output):
    return phase1(folder, output, max_steps=10**6, num_steps_per_checkpoint=10**6)


def has_steps(output):
    log = output / "dllogger.json"
    return lambda: log.exists() and len(curve(output)) >= 3


def plain_environment(size=2):
    """What other launchers than torchrun set, for each rank."""
    shared = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return tuple({**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in range(size))


@pytest.mark.slow
def test_without_torchrun_the_other_rank_ends_soon_after_a_kill(folder):
    with Job([*PYTHON, *endless(folder, "plain")], folder, plain_environment()) as job:
        job.wait_until(has_steps(folder / "plain"))
        os.kill(job.pid_of_rank(1), signal.SIGKILL)
        first, second = job.wait(45)
    assert (second, first > 0) == (KILLED, True), job.output()
    assert "error: rank 0 on host" in job.output()
    assert "rank 1 on host" in job.output()


@pytest.mark.slow
def test_under_torchrun_all_end_soon_after_a_kill(folder):
    with Job([*TORCHRUN, *PYTHON[1:], *endless(folder, "torchrun")], folder) as job:
        job.wait_until(has_steps(folder / "torchrun"))
        os.kill(job.pid_of_rank(0), signal.SIGKILL)
        (status,) = job.wait(30)
    assert status > 0, job.output()


@pytest.mark.slow
def test_torchruns_restart_goes_on_without_being_told(folder, straight):
    """Nor was --resume_from_checkpoint given: the folder was empty at first."""
    arguments = phase1(folder, "restarted", resume_from_checkpoint=False)
    fault = json.dumps(["kill", 1, 9 * ACCUMULATION])  # in step 9
    script = [distributed_runs.__file__, fault, *arguments]
    with Job([*TORCHRUN, "--max-restarts=3", *script], folder) as job:
        (status,) = job.wait(PATIENCE)
    assert status == 0, job.output()
    assert "going on after step" in job.output()
    assert_same_run(folder / "restarted", straight)


# Asked to stop.


@pytest.mark.parametrize(("name", "rank", "signalled", "finished"), [("SIGTERM", 1, 12, 6), ("SIGUSR1", 0, 13, 7)])
def test_a_signal_to_one_rank_stops_all_with_a_checkpoint(folder, straight, name, rank, signalled, finished):
    """One micro-batch more is made, in which the ranks agree: it begins a step that is dropped, or ends one.

    After step 6 there is a checkpoint anyway, after step 7 only because of the signal.
    """
    output = folder / name
    outcomes = run_forked(phase1(folder, name), 2, (name, rank, signalled))
    assert [outcome.status for outcome in outcomes] == [REQUEUE_EXIT_CODE] * 2, outcomes[0].output
    assert f"micro-batches: {signalled + 1}\n" in outcomes[rank].output
    told = name if rank == 0 else "a signal to another rank"
    assert f"stopped by {told} after step {finished} of 12; start again with" in outcomes[0].output
    assert newest_step(output) == finished
    outcomes = finish(phase1(folder, name), 2)
    assert f"going on after step {finished}, {16 * finished} sequences into the data" in outcomes[0].output
    assert_same_run(output, straight)


@pytest.mark.parametrize(("name", "micro_batch", "saved"), [("SIGTERM", 10, []), ("SIGUSR1", 70, [1])])
def test_one_process_stops_at_once_within_a_step_of_many_micro_batches(folder, name, micro_batch, saved):
    """In step 1, where there is nothing to save yet, and in step 2."""
    flags = {"train_batch_size": 64, "gradient_accumulation_steps": 64, "max_steps": 3}
    output, undisturbed = f"accumulating_{name}", "accumulating"
    (outcome,) = run_forked(phase1(folder, output, **flags), 1, (name, 0, micro_batch))
    assert outcome.status == REQUEUE_EXIT_CODE, outcome.output
    assert f"stopped by {name} after step {len(saved)} of 3" in outcome.output
    assert f"micro-batches: {micro_batch}\n" in outcome.output
    assert [step for step, _ in find_checkpoints(folder / output)] == saved
    finish(phase1(folder, output, **flags), 1)
    if not (folder / undisturbed).exists():
        finish(phase1(folder, undisturbed, **flags), 1)
    assert curve(folder / output) == curve(folder / undisturbed)
    assert_equal_checkpoints(folder / output / "ckpt_3.pt", folder / undisturbed / "ckpt_3.pt")


@pytest.mark.slow
def test_a_signal_from_outside_ends_a_process_within_seconds(folder):
    """Its only step has 100,000 micro-batches, some minutes."""
    flags = {"train_batch_size": 100_000, "gradient_accumulation_steps": 100_000, "max_steps": 1}
    with Job([*PYTHON, *phase1(folder, "outside", **flags)], folder) as job:
        job.wait_until(lambda: "starting fresh" in job.output())
        os.kill(job.pid(), signal.SIGTERM)
        assert job.wait(30) == [REQUEUE_EXIT_CODE], job.output()
    assert "stopped by SIGTERM after step 0 of 1" in job.output()


# A disk that is full, and a file that is damaged.


def train_on_a_full_disk(arguments, full_at):
    """While checkpoints of these steps are written, no file may grow beyond 64 KiB, which the log does not reach."""
    save = checkpoint_writer.save_checkpoint

    def save_or_not(output_dir, step, state, **retention):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if step in full_at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
        try:
            save(output_dir, step, state, **retention)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    checkpoint_writer.save_checkpoint = save_or_not
    train(arguments)


def test_a_full_disk_in_between_costs_that_checkpoint_alone(folder, straight):
    outcomes = finish(phase1(folder, "full"), 2, [6, 8], function=train_on_a_full_disk)
    for step in (6, 8):
        path = folder / "full" / f"ckpt_{step}.pt"
        assert f"the checkpoint {path} could not be written (File too large)" in outcomes[0].output
    assert "could not be written" not in outcomes[1].output
    assert [step for step, _ in find_checkpoints(folder / "full")] == [4, 10, 12]
    assert_same_run(folder / "full", straight)


def test_a_full_disk_at_the_end_is_an_error_and_leaves_the_last_good_checkpoint(folder, straight):
    output = folder / "full_at_the_end"
    outcomes = run_forked(phase1(folder, output.name), 2, [10, 12], function=train_on_a_full_disk)
    assert outcomes[0].status == 2
    assert outcomes[1].status != 0
    assert f"error: the checkpoint {output / 'ckpt_12.pt'} could not be written" in outcomes[0].output
    assert [step for step, _ in find_checkpoints(output)] == [4, 6, 8]
    assert not list(output.glob(".ckpt_*"))
    finish(phase1(folder, output.name), 2)
    assert_same_run(output, straight)


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_it_used(folder, straight):
    output = folder / "damaged"
    finish(phase1(folder, "damaged", steps_this_run=6), 2)
    path = output / "ckpt_6.pt"
    weights = torch.load(path, weights_only=True)["model"]["bert.embeddings.word_embeddings.weight"]
    data = bytearray(path.read_bytes())
    data[data.index(weights.numpy().tobytes()) + 100] ^= 1
    path.write_bytes(data)
    first, second = finish(phase1(folder, "damaged"), 2)
    assert f"warning: the checkpoint {path} is damaged" in first.output
    assert "Trying the one before it" in first.output
    assert "going on after step 4" in first.output
    assert second.output == ""
    assert_same_run(output, straight)


# What is left.


def test_an_error_that_all_ranks_find_is_told_once(folder):
    first, second = run_forked(phase1(folder, "nowhere", input_dir=folder / "nowhere"), 2)
    assert (first.status, second.status) == (2, 2)
    assert first.output.count("error: ") == 1
    assert str(folder / "nowhere") in first.output
    assert second.output == ""


def test_a_folder_in_use_is_refused_once_for_all_ranks(folder):
    with locked(folder / "in_use" / ".lock"):
        first, second = run_forked(phase1(folder, "in_use"), 2)
    assert (first.status, second.status) == (2, 2)
    assert f"error: rank 0: {folder / 'in_use'} is in use by " in first.output
    assert second.output == ""


def test_an_error_on_one_rank_ends_the_other(folder):
    outcomes = run_forked(phase1(folder, "one_rank"), 2, function=train_without_memory_on_rank_1)
    assert all(outcome.status not in (0, KILLED) for outcome in outcomes)
    assert "out of memory" in outcomes[1].output
    assert "rank 1 on host" in outcomes[0].output


def train_without_memory_on_rank_1(arguments):
    losses = TrainingRun.losses

    def losses_or_not(run, batch):
        if run.step == 3 and run.world.rank == 1:
            raise torch.OutOfMemoryError("out of memory")
        return losses(run, batch)

    TrainingRun.losses = losses_or_not
    train(arguments)


def raise_(error):
    raise error


ENDS = {
    "success": (lambda: None, None),
    "a UserError": (lambda: raise_(UserError("no")), UserError),
    "a bug": (lambda: raise_(ValueError("a bug")), ValueError),
    "Ctrl-C": (lambda: os.kill(os.getpid(), signal.SIGINT), KeyboardInterrupt),
    "a signal": (lambda: os.kill(os.getpid(), signal.SIGTERM), SystemExit),
}


@pytest.mark.parametrize("end", ENDS)
def test_neither_threads_nor_handlers_nor_shared_memory_are_left_however_main_ends(folder, tmp_path, monkeypatch, end):
    strike, error = ENDS[end]
    losses = TrainingRun.losses

    def losses_then_strike(run, batch):
        if run.step == 4:  # a checkpoint may be on its way to disk
            strike()
        return losses(run, batch)

    monkeypatch.setattr(TrainingRun, "losses", losses_then_strike)
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    threads, handlers = set(threading.enumerate()), [signal.getsignal(number) for number in numbers]
    with nothing_left(list):
        arguments = phase1(folder, tmp_path, max_steps=5, num_steps_per_checkpoint=1, eval_dir=folder / "test")
        if error is None:
            run_pretraining.main(arguments)
        else:
            with pytest.raises(error):
                run_pretraining.main(arguments)
    assert threads_since(threads) == set()
    assert [signal.getsignal(number) for number in numbers] == handlers


# From phase 1 to phase 2.


def train_noting_rates(arguments):
    """Print what each step of an optimizer finds: its groups' rates and how many steps they count so far."""
    build = training_run.build_optimizer

    def built(*values, **options):
        optimizer = build(*values, **options)

        def note(optimizer, *_):
            groups = {(group["lr"], group.get("step", 0)) for group in optimizer.param_groups}
            print("found:", json.dumps(sorted(groups)), flush=True)

        optimizer.register_step_pre_hook(note)
        return optimizer

    training_run.build_optimizer = built
    train(arguments)


def found(outcome):
    return [
        json.loads(line.removeprefix("found: ")) for line in outcome.output.splitlines() if line.startswith("found")
    ]


# By hand: warm-up is a quarter of 12 steps and of 8. Up to it a line, which the step at its end leaves already, as in
# NVIDIA's formula; from there the root of what is left of the run.
RATES1 = [0.01 * 1 / 3, 0.01 * 2 / 3, *(0.01 * (left / 12) ** 0.5 for left in (9, 8, 7, 6, 5, 4, 3, 2, 1, 0))]
RATES2 = [0.003, *(0.006 * (left / 8) ** 0.5 for left in (6, 5, 4, 3, 2, 1, 0))]


@pytest.mark.parametrize(("size", "sharded"), [(1, False), (2, True)])
def test_phase_2_counts_and_schedules_anew_number_by_number(folder, size, sharded):
    output = folder / f"phases_on_{size}"
    flags = {"num_steps_per_checkpoint": 1, "keep_checkpoints": 20, "shard_optimizer": sharded}
    runs = (
        (phase1(folder, output.name, **flags), RATES1, 0),
        (phase2(folder, output.name, **flags, steps_this_run=3), RATES2[:3], 0),
        (phase2(folder, output.name, **flags), RATES2[3:], 3),
    )
    for arguments, rates, steps_before in runs:
        for outcome in finish(arguments, size, function=train_noting_rates):
            groups = found(outcome)
            assert [len(of_step) for of_step in groups] == [1] * len(rates)  # all groups alike
            assert [of_step[0][0] for of_step in groups] == pytest.approx(rates, rel=1e-12, abs=0)
            assert [of_step[0][1] for of_step in groups] == list(range(steps_before, steps_before + len(rates)))
    logged = curve(output)
    assert list(logged) == [(1, step) for step in range(1, 13)] + [(2, step) for step in range(1, 9)]
    assert [values["learning_rate"] for values in logged.values()] == pytest.approx(RATES1 + RATES2, rel=1e-12, abs=0)
    assert [step for step, _ in find_checkpoints(output)] == list(range(1, 21))
    for step, path in find_checkpoints(output):
        state = torch.load(path, weights_only=True)
        in_phase = step if step <= PHASE1_STEPS else step - PHASE1_STEPS
        assert state["step"] == step
        assert state["schedule"] == {"finished_steps": in_phase}
        assert state["data_position"]["samples_seen"] == in_phase * 8 * size
        assert {group["step"] for group in state["optimizer"]["param_groups"]} == {in_phase}
