"""Numbers in sentences for people."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 step`, `2,000 steps`, `0 processes`; `plural` is for nouns that take more than an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def and_others(number: int) -> str:
    """What follows the name of the first of so many."""
    return f" (and {counted(number - 1, 'other')})" if number > 1 else ""
