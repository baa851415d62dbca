"""A slip on a command line: one sentence, with what was meant; all else as argparse has it."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.command_line import CommandLine
from common.errors import UserError


def with_flags(parser):
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--train_batch_size", type=int)
    parser.add_argument("--precision", choices=("fp32", "bf16"))
    parser.add_argument("--lower", action=argparse.BooleanOptionalAction)
    parser.add_argument("--sizes", nargs="+", type=float)
    parser.add_argument("file", nargs="?")
    return parser


def sentence(*words):
    with pytest.raises(UserError) as raised:
        with_flags(CommandLine("")).parse_args(words)
    (said,) = raised.value.sentences
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        # The flag that is missing is the least of it.
        (["--train_batchsize", "8"], "--train_batchsize (did you mean --train_batch_size?)"),
        (["--train-batch-size=8"], "--train-batch-size (did you mean --train_batch_size?)"),
        (["-train_batch_size", "8"], "-train_batch_size (did you mean --train_batch_size?)"),
        (["--output_dir", "x", "a", "outputdir=b"], "outputdir=b (did you mean --output_dir?)"),
        (["--no-lowr", "--zzz"], "--no-lowr (did you mean --no-lower?), --zzz; "),
        (["--output_dir", "x", "96", "6e-3", "fp16"], "arguments: 6e-3, fp16; "),
        (["--precision", "fp23", "--output_dir", "x"], "invalid choice: 'fp23' (did you mean fp32?); choose one of"),
        (["--train_batch_size", "many", "--output_dir", "x"], "--train_batch_size: invalid int value: 'many'"),
        ([], "required: --output_dir"),
    ],
)
def test_a_slip_is_one_sentence_with_what_was_meant(words, expected):
    assert expected in sentence(*words)


WORDS = ("--output_dir", "--out", "--lower", "--no-lower", "--train_batch_size", "--sizes", "--", "8", "-1", "-.5")
WORDS += ("--precision", "bf16", "--train_batch_size=3", "x y", "-h y", "--How old is it?", "")


@given(st.lists(st.sampled_from(WORDS), max_size=7))
def test_what_argparse_takes_is_taken_with_the_same_values(words):
    class Plain(argparse.ArgumentParser):
        def error(self, message):
            raise UserError(message)

    def values(parser):
        try:
            return with_flags(parser).parse_args(words)
        except UserError:
            return "refused"

    assert values(CommandLine("")) == values(Plain())
