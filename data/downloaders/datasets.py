"""What the preparation begins with, from the network or from this machine: which dataset is got by which function."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from common.errors import Problem
from data.artifacts.layout import BOTH, SQUAD, WEIGHTS
from data.artifacts.stage_output import Preparation
from data.document_sources import COMBINED, document_sources
from data.downloaders.folder import DownloadOptions
from data.downloaders.published import download_squad, download_weights

ALL = "all"
OTHER_DOWNLOADS = (SQUAD, WEIGHTS, ALL)
"""What can be downloaded besides documents."""
WITH_SOURCE = "bookscorpus"
"""Whose `--source` is given with `all`; everything else there is published."""


def download_problems(dataset: str, options: DownloadOptions) -> list[Problem]:
    """What is wrong with the options, before anything is downloaded."""
    problems = []
    if not 0 <= options.max_failed_share <= 1:
        problems.append(Problem(f"--max_failed_share {options.max_failed_share} must lie in [0, 1]."))
    if dataset == SQUAD and options.source and not Path(options.source).is_dir():
        problem = f"--source {options.source} is no folder"
        problems.append(Problem(problem, "leave it out, or give one with SQuAD's four files"))
    if dataset == WEIGHTS and options.source:
        problems.append(
            Problem(f"--source {options.source} is not for {WEIGHTS}, which has one source", "leave it out")
        )
    documents = document_sources().get(WITH_SOURCE if dataset == ALL else dataset)
    if documents and (problem := documents.problem(options.source)):
        problems.append(problem)
    return problems


def download(preparation: Preparation, options: DownloadOptions) -> Iterator[str]:
    """Download the layout's dataset; a line for each thing that was got.

    Raises:
        UserError: it cannot be had, is not what it should be, or something else lies in its place.
    """
    dataset = preparation.layout.dataset
    if dataset == SQUAD:
        yield download_squad(preparation, options)
    elif dataset == WEIGHTS:
        for name in options.models:
            yield download_weights(preparation, name, options)
    elif dataset == ALL:
        for each in (SQUAD, WEIGHTS, *reversed(COMBINED[BOTH])):
            layout = dataclasses.replace(preparation.layout, dataset=each)
            of_each = options if each == WITH_SOURCE else dataclasses.replace(options, source=None)
            yield from download(dataclasses.replace(preparation, layout=layout), of_each)
    else:
        yield document_sources()[dataset].download(preparation, options)
