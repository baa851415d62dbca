"""Times to a quality, against seconds worked out by hand from logs that were written by hand."""

import json

import pytest

from benchmark.summarize_time_to_quality import main
from common.errors import UserError

# Step and accuracy of each evaluation, 20 s apart by the clock.
RISING = ((100, 0.30), (200, 0.41), (300, 0.40), (400, 0.44))
FLAGS = {
    "eval_dir": "data",
    "max_steps": 400,
    "learning_rate": 5e-4,
    "beta1": 0.9,
    "num_steps_per_evaluation": 100,
    "target_mlm_accuracy": 0.43,
    "skip_checkpoint": True,
}


def start_of(first_step=0, seed=1, precision="bf16", **changes):
    flags = {**FLAGS, "seed": seed, **changes}
    data = {"arguments": flags, "precision": precision, "first_step": first_step, "batches": {"global": 512}}
    return 0, "PARAMETER", data


def scored(seconds, step, accuracy):
    """An evaluation, by the clock of a run whose training began at 1,000 s."""
    data = {"eval_mlm_accuracy": accuracy, "training_seconds": seconds, "eval_n_sequences": 1000}
    return 1000 + seconds, [0, step], data


def began(seconds_of_first_step=7.0):
    """The evaluation before the first step, 3 s into the clock, and the first step."""
    return [scored(3.0, 0, 0.0), (1000 + seconds_of_first_step, [0, 1], {"average_loss": 11.0})]


def ended(rate=5000.0):
    return 2000, [], {"sequences_per_second": rate}


def events_of(accuracies=RISING, delay=0.0, **changes):
    """A whole run: its first step is done at 7 s, and evaluations come 20, 40, ... s after that, `delay` later each."""
    scores = [scored(7.0 + (20 + delay) * n, *score) for n, score in enumerate(accuracies, 1)]
    return [start_of(**changes), *began(), *scores, ended()]


def write(folder, events):
    folder.mkdir(parents=True)
    lines = [
        f"DLLL {json.dumps({'timestamp': str(time), 'type': 'LOG', 'step': step, 'data': data})}\n"
        for time, step, data in events
    ]
    (folder / "dllogger.json").write_text("".join(lines), encoding="utf-8")
    return str(folder / "dllogger.json")


def tables(printed):
    """Rows by column of each table."""
    found = []
    for block in printed.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        if lines:
            header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            found.append([dict(zip(header, row, strict=True)) for row in rows])
    return found


def test_seconds_count_from_the_first_step_to_the_first_evaluation_at_or_above(tmp_path, capsys):
    logs = [write(tmp_path / "bf16" / "seed_1", events_of())]
    main([*logs, "--targets", "0.43", "0.40", "0.41"])
    [[variant], [run]] = tables(capsys.readouterr().out)
    # 0.41 comes after 40 s; that it is 0.40 once more later does not count. 0.43 is passed at 0.44, after 80 s.
    for row in (variant, run):
        assert [row[f"seconds to {target}"] for target in ("0.4", "0.41", "0.43")] == ["40.0", "40.0", "80.0"]
        assert (row["steps to 0.43"], row["accuracy at the end"], row["sequences/s"]) == ("400", "0.4400", "5,000.0")
    assert (variant["seeds"], run["starts"]) == ("1", "1")


def test_the_targets_of_the_runs_are_the_default(tmp_path, capsys):
    main([write(tmp_path / "bf16" / "seed_1", events_of())])
    assert "seconds to 0.43" in tables(capsys.readouterr().out)[0][0]


def test_mean_spread_and_ratio_to_hugging_face(tmp_path, capsys):
    logs = [
        write(tmp_path / name / f"seed_{seed}", events_of(delay=delay, seed=seed, **own))
        for name, own, delays in (
            ("bf16", {}, (0, 1, 2)),
            ("huggingface", {"implementation": "transformers 5"}, (20, 22)),
        )
        for seed, delay in enumerate(delays, 1)
    ]
    main(logs)
    ours, theirs = tables(capsys.readouterr().out)[0]
    assert (ours["seeds"], theirs["seeds"]) == ("1 2 3", "1 2")
    assert ours["seconds to 0.43"] == "84.0 ± 4.0"  # 80, 84, 88
    assert theirs["seconds to 0.43"] == "164.0 ± 5.7"  # 160, 168
    assert ours["times as fast as huggingface"] == "1.95"  # 164 / 84
    assert theirs["times as fast as huggingface"] == "1.00"


def test_what_was_not_reached_is_said_and_has_no_ratio(tmp_path, capsys):
    low = ((100, 0.30), (200, "NaN"), (300, 0.42), (400, 0.4299))
    logs = [
        write(tmp_path / "bf16" / "seed_1", events_of()),
        write(tmp_path / "bf16" / "seed_2", events_of(low, seed=2)),
        write(tmp_path / "huggingface" / "seed_1", events_of(low)),
    ]
    main([*logs, "--targets", "0.40", "0.43"])
    (ours, theirs), runs = tables(capsys.readouterr().out)
    assert ours["seconds to 0.4"] == "50.0 ± 14.1"  # 40 and 60
    assert ours["seconds to 0.43"] == "80.0 (1 of 2)"
    assert theirs["seconds to 0.43"] == "not reached"
    assert {ours["times as fast as huggingface"], theirs["times as fast as huggingface"]} == {"-"}
    assert runs[1]["seconds to 0.43"] == "-"


def test_a_run_too_short_for_a_throughput_has_none(tmp_path, capsys):
    log = write(tmp_path / "bf16" / "seed_1", [*events_of()[:-1], (2000, [], {"measured_steps": 0})])
    main([log])
    for [row] in tables(capsys.readouterr().out):
        assert (row["sequences/s"], row["seconds to 0.43"]) == ("-", "80.0")


def test_a_resumed_run_has_the_seconds_of_its_parts_and_is_named(tmp_path, capsys):
    saved = {"skip_checkpoint": False}
    before = [start_of(**saved), *began(), scored(27.0, 100, 0.3), scored(47.0, 200, 0.35), scored(67.0, 300, 0.44)]
    # The third evaluation came after the checkpoint of step 200, and is lost. The loop's clock went on from 47 s.
    after = [start_of(200, **saved), scored(50.0, 200, 0.35), scored(80.0, 300, 0.40), scored(100.0, 400, 0.43)]
    log = write(tmp_path / "bf16" / "seed_1", [*before, *after, ended()])
    main([log, "--targets", "0.35", "0.43"])
    printed = capsys.readouterr().out
    [[variant], [run]] = tables(printed)
    assert (variant["seconds to 0.35"], variant["seconds to 0.43"]) == ("40.0", "93.0")  # 47 - 7, 100 - 7
    assert run["starts"] == "2"
    assert f"{log}: resumed; its seconds are the sum of its parts" in printed
    assert "every 100 steps and checkpoints included" in printed


def test_of_a_run_that_was_started_over_only_the_last_start_counts(tmp_path, capsys):
    lost = [start_of(), *began(70.0), scored(90.0, 100, 0.9)]
    main([write(tmp_path / "bf16" / "seed_1", [*lost, *events_of()])])
    [[variant], [run]] = tables(capsys.readouterr().out)
    assert (variant["seconds to 0.43"], run["starts"]) == ("80.0", "1")


def test_a_run_that_was_started_again_after_its_end_keeps_its_time(tmp_path, capsys):
    again = [start_of(400), scored(300.0, 400, 0.44), (2100, [], {"measured_steps": 0})]
    main([write(tmp_path / "bf16" / "seed_1", [*events_of(), *again])])
    [[variant], _] = tables(capsys.readouterr().out)
    assert (variant["seconds to 0.43"], variant["sequences/s"]) == ("80.0", "5,000.0")


def test_the_last_line_says_what_the_clock_counted(tmp_path, capsys):
    main([write(tmp_path / "bf16" / "seed_1", events_of())])
    assert capsys.readouterr().out.splitlines()[-1] == (
        "Wall clock from the end of the first step to the first evaluation at or above the accuracy, evaluations of "
        "1,000 held-out sequences every 100 steps included; starting up and compilation excluded."
    )


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    whole = events_of()
    logs = [
        write(tmp_path / "bf16" / "seed_1", whole),
        write(tmp_path / "unfinished" / "seed_1", whole[:-1]),
        write(tmp_path / "without_first" / "seed_1", [whole[0], *whole[2:]]),
        write(tmp_path / "squad" / "seed_1", [(0, "PARAMETER", {"arguments": {}}), ended()]),
        str(tmp_path / "absent.json"),
    ]
    with pytest.raises(UserError) as error:
        main([*logs, "--targets", "1.2"])
    for sentence in (
        "--targets has 1.2; give shares between 0 and 1, such as 0.4 for 40 %.",
        "unfinished/seed_1/dllogger.json is of a run that has not ended; let it end, or leave it out.",
        "without_first/seed_1/dllogger.json has no evaluation before its first step",
        "squad/seed_1/dllogger.json is no log of pre-training with held-out shards",
        "absent.json cannot be read",
    ):
        assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("folder", "changes", "said"),
    [
        ("bf16/again", {}, "are runs of bf16 with seed 1"),
        ("bf16/seed_2", {"seed": 2, "precision": "fp8"}, "has precision fp8 and "),
        ("fp8/seed_1", {"precision": "fp8", "learning_rate": 1e-3}, "has learning_rate 0.001 and "),
        ("fp8/seed_1", {"precision": "fp8", "beta1": 0.8}, "has beta1 0.8 and "),
        ("fp8/seed_1", {"precision": "fp8", "max_steps": 500}, "so their times are not to one quality"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(tmp_path, folder, changes, said):
    logs = [write(tmp_path / "bf16" / "seed_1", events_of()), write(tmp_path / folder, events_of(**changes))]
    with pytest.raises(UserError, match=said):
        main(logs)


def test_a_log_that_does_not_know_a_flag_is_compared_in_the_others(tmp_path, capsys):
    older = events_of(precision="fp8")
    del older[0][2]["arguments"]["beta1"]
    main([write(tmp_path / "bf16" / "seed_1", events_of()), write(tmp_path / "fp8" / "seed_1", older)])
    assert [row["variant"] for row in tables(capsys.readouterr().out)[0]] == ["bf16", "fp8"]
