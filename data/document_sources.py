"""The sources of documents, and the datasets made of them.

Each file of data/sources/ holds one, as its class `Source`. The choices of the command lines, the stages and the names
of the folders follow from what is found there.
"""

import dataclasses
import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from data.artifacts.layout import BOTH, Layout
from data.downloaders.document_source import DocumentSource

COMBINED = MappingProxyType({BOTH: ("wikicorpus_en", "bookscorpus")})
"""Datasets made of several sources' documents, from sharding on."""


@functools.cache
def document_sources() -> Mapping[str, DocumentSource]:
    """All sources, by name; Wikipedia first, as in NVIDIA's script."""
    files = sorted(Path(__file__).with_name("sources").glob("*.py"), reverse=True)
    sources = [importlib.import_module(f"data.sources.{file.stem}").Source() for file in files]
    return MappingProxyType({source.name: source for source in sources})


def datasets() -> tuple[str, ...]:
    """The names of all datasets that can be sharded."""
    return (*document_sources(), *COMBINED)


def formatted_texts(layout: Layout) -> dict[Path, Path]:
    """The manifest of each formatted text of the dataset, and that text; several for a combined one."""
    names = COMBINED.get(layout.dataset, (layout.dataset,))
    layouts = (dataclasses.replace(layout, dataset=name) for name in names)
    return {each.formatted_manifest: document_sources()[each.dataset].formatted(each) for each in layouts}
