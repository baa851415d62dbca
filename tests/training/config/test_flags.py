"""training/config/flags.py: a dataclass's fields as flags, and back as typed values."""

import dataclasses

import pytest

from common.errors import UserError
from training.config.flags import flag, parse

FIRST = ("output", "train")
frozen = dataclasses.dataclass(frozen=True, kw_only=True)


@frozen
class Shared:
    """Shared."""

    output: str = flag(dataclasses.MISSING, "where to")
    steps: int | None = flag(None, "how many", positive=True)
    rate: float = flag(0.5, "how fast", positive=True)
    reduce: bool = flag(True, "whether")
    mixed: bool = flag(False, "two names", "--fp16", "--amp")


@frozen
class Own:
    """Own."""

    train: bool = flag(False, "train")
    lower: bool | None = flag(None, "lower-case")
    kind: str = flag("a", "which", choices=("a", "b"))
    phase: int = flag(1, "which phase", title="Phases")


def parsed(*arguments, **defaults):
    (own, shared), record = parse("What it does.", (Own, Shared), defaults, ["--output", "here", *arguments], FIRST)
    return own, shared, record


def test_defaults_types_and_names():
    own, shared, record = parsed()
    assert own == Own(train=False, lower=None, kind="a", phase=1)
    assert shared == Shared(output="here", steps=None, rate=0.5, reduce=True, mixed=False)
    assert record == {**dataclasses.asdict(own), **dataclasses.asdict(shared)}
    own, shared, _ = parsed("--no-lower", "--no-reduce", "--amp", "--steps", "3", "--rate", "2", "--phase", "2")
    assert (own.lower, shared.reduce, shared.mixed) == (False, False, True)
    assert (shared.steps, shared.rate, own.phase) == (3, 2.0, 2)


def test_a_task_may_have_other_defaults():
    assert parsed(rate=3.0)[1].rate == 3.0


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed()[1].rate = 1.0


def helped(capsys, *words):
    with pytest.raises(SystemExit):
        parsed("--help", *words)
    return capsys.readouterr().out


def test_help_shows_a_flag_under_its_own_title_or_its_classs(capsys):
    text = helped(capsys, "all").split("options:")[1]
    order = [text.index(part) for part in ("Own:", "--lower,", "Phases:", "--phase N", "Shared:", "--rate X")]
    assert order == sorted(order)
    assert "which phase (default: 1)" in text


def test_help_explains_the_flags_to_begin_with_and_names_the_others(capsys):
    text = helped(capsys)
    begin, others = text.split("All other flags, by name:")
    assert begin.startswith("usage: ")
    assert [line.split()[0] for line in begin.split("Flags to begin with:\n")[1].splitlines() if line] == [
        "--output",
        "--train",
    ]
    assert others.split("--help all")[0].split() == [
        *("options:", "--version", "Own:", "--lower", "--kind", "Phases:", "--phase"),
        *("Shared:", "--steps", "--rate", "--reduce", "--fp16"),
    ]


@pytest.mark.parametrize(
    ("word", "flags"),
    [
        ("rat", ["--rate"]),
        ("AMP", ["--fp16,"]),
        ("shared", ["--steps", "--rate", "--reduce,", "--fp16,"]),
        ("no-lower", ["--lower,"]),
    ],
)
def test_help_on_a_word(capsys, word, flags):
    lines = helped(capsys, word).splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  --")] == flags


def test_help_on_a_word_that_nothing_has():
    with pytest.raises(UserError, match="no flag and no group of flags has 'zzz' in its name; --help names all flags"):
        parsed("--help", "zzz")


@pytest.mark.parametrize("arguments", [["--kind", "c"], ["--steps", "x"], ["--nothing"]])
def test_what_argparse_refuses(arguments):
    with pytest.raises(UserError, match=arguments[0]):
        parsed(*arguments)
