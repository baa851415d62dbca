import pytest

from common.words import counted


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 steps, 0 processes"), (1, "1 step, 1 process"), (2000, "2,000 steps, 2,000 processes")]
)
def test_a_noun_is_singular_after_one_alone(number, words):
    assert f"{counted(number, 'step')}, {counted(number, 'process', 'processes')}" == words
