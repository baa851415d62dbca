"""data/document_sources.py: every source says what is left open, and is a dataset of the name it gives."""

import pytest

from data.document_sources import DocumentSource, datasets, document_sources

LEFT_OPEN = ("problems", "download", "texts", "documents")


@pytest.mark.parametrize("name", document_sources())
def test_a_source_says_what_is_left_open(name):
    source = document_sources()[name]
    missing = [method for method in LEFT_OPEN if getattr(type(source), method) is getattr(DocumentSource, method)]
    assert not missing
    assert name in datasets()
