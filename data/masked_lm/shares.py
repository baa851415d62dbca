"""Shares of a corpus that tell whether its text was understood, compared with bounds that chance does not cross."""

import math

from common.errors import Problem

CHANCE = 1e-8  # how often a sound corpus may cross a bound by accident
# English with the vocabulary that fits has less than 0.5 %; an uncased vocabulary without lower-casing 6 to 8 %.
MAX_UNKNOWN = 0.02


def exceeds(number: int, of: int, share: float) -> bool:
    """Whether `number` of `of` are more than this share, by more than the accidents of `of` independent draws.

    Source: Hoeffding 1963, theorem 1: a binomial tail is at most exp(-n KL(found || share)).
    """
    if number <= of * share:
        return False
    found = number / of
    rest = (1 - found) * math.log((1 - found) / (1 - share)) if found < 1 else 0
    return of * (found * math.log(found / share) + rest) > -math.log(CHANCE)


def unknown_problem(unknown: int, tokens: int, do_lower_case: bool | None) -> Problem | None:
    """What is wrong where too many tokens are [UNK], and the likely cause; `do_lower_case` None: not known."""
    if not exceeds(unknown, tokens, MAX_UNKNOWN):
        return None
    what = (
        f"{unknown / tokens:.1%} of {tokens:,} tokens are [UNK], more than {MAX_UNKNOWN:.0%}: the vocabulary does not"
    )
    if do_lower_case is False:
        cause = "fit the text, most likely because it has no capitals and the text was not lower-cased"
        return Problem(f"{what} {cause}", "give --do_lower_case (bertPrep.py: --do_lower_case 1)")
    remedy = "if it has capitals, give --no-do_lower_case (bertPrep.py: --do_lower_case 0), else another --vocab_file"
    return Problem(f"{what} fit the text, in its casing or its language", remedy)
