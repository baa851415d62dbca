"""What the preparation begins with, from the network or from this machine: which dataset is got by which function.

Nothing is crawled: books come from where their owner keeps them.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from common.workers import Workers
from data.artifacts.layout import BOOKS, SQUAD, WEIGHTS, WIKIPEDIA, Layout
from data.downloaders.books import books_problem, download_books
from data.downloaders.folder import DownloadOptions
from data.downloaders.published import download_squad, download_weights
from data.downloaders.wikipedia import download_wikipedia, wikipedia_problem


def download_problems(dataset: str, options: DownloadOptions) -> list[str]:
    """A sentence for each option that cannot be, before anything is downloaded."""
    problems = []
    if not 0 <= options.max_failed_share <= 1:
        problems.append(f"--max_failed_share {options.max_failed_share} must lie in [0, 1].")
    if dataset == WIKIPEDIA:
        problems.append(wikipedia_problem(options.source or "latest"))
    elif dataset in (BOOKS, "all"):
        problems.append(books_problem(options.source))
    elif dataset == SQUAD and options.source and not Path(options.source).is_dir():
        problems.append(f"--source {options.source} is no folder; leave it out, or give one with SQuAD's four files.")
    elif dataset == WEIGHTS and options.source:
        problems.append(f"--source {options.source} is not for {WEIGHTS}, which has one source; leave it out.")
    return [problem for problem in problems if problem]


def download(layout: Layout, options: DownloadOptions, pool: Workers) -> Iterator[str]:
    """Download the layout's dataset; a line for each thing that was got.

    Raises:
        UserError: it cannot be had, is not what it should be, or something else lies in its place.
    """
    if layout.dataset == WIKIPEDIA:
        yield download_wikipedia(layout, options, pool)
    elif layout.dataset == BOOKS:
        yield download_books(layout, options, pool)
    elif layout.dataset == SQUAD:
        yield download_squad(layout.download, options, pool)
    elif layout.dataset == WEIGHTS:
        for name in options.models:
            yield download_weights(layout.download, name, options, pool)
    else:
        for dataset in (SQUAD, WEIGHTS, BOOKS, WIKIPEDIA):
            # The source is the books'; all else is published.
            of_dataset = options if dataset == BOOKS else dataclasses.replace(options, source=None)
            yield from download(dataclasses.replace(layout, dataset=dataset), of_dataset, pool)
