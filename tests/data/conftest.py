"""What tests of the data preparation share."""

import pytest

from common import remote_files


@pytest.fixture
def no_waiting(monkeypatch):
    """A server that fails is asked again at once."""
    monkeypatch.setattr(remote_files, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(remote_files, "LONGEST_WAIT", 0.0)
