"""Downloads from a local HTTP server."""

import json

import pytest
from http_servers import serve

from data.download import DownloadOptions, download
from data.manifest import Manifest
from errors import UserError

VERSIONS = ("v1.1", "v2.0")


def squad_files(version_of=lambda version: version):
    return {
        f"{part}-{version}.json": json.dumps({"version": version_of(version), "data": []}).encode()
        for version in VERSIONS
        for part in ("train", "dev")
    }


def test_squad_is_downloaded_once(tmp_path):
    with serve(squad_files()) as server:
        options = DownloadOptions(squad_mirror=server.url)
        download(tmp_path, "squad", options)
    folder = tmp_path / "download/squad"
    assert (folder / "v1.1/dev-v1.1.json").read_bytes() == squad_files()["dev-v1.1.json"]
    assert len(Manifest.read(folder / "manifest.json").outputs) == 4
    assert "downloaded before" in download(tmp_path, "squad", options)[0]  # the server is gone


def test_squad_of_another_version_is_refused_and_leaves_nothing(tmp_path):
    for name, content in squad_files(lambda version: "v1.1").items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"version v1\.1, not v2\.0"):
        download(tmp_path / "work", "squad", DownloadOptions(source=str(tmp_path)))
    assert not (tmp_path / "work/download/squad").exists()
