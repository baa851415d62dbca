"""Text of the dataset `text` in files of several kinds, and its first two stages."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import UserError
from common.workers import workers
from data.artifacts.manifest import Manifest
from data.artifacts.stage_output import Preparation
from data.corpus.documents import FormatOptions
from data.downloaders.datasets import download, download_problems
from data.downloaders.folder import DownloadOptions
from data.stages import format_text

PROSE = "The old bridge was built by the king of that time."
TEXTS = [
    f"{PROSE}\n\nHistory\n\nIt was the first of its kind, and for many years the only one.",
    f"{PROSE[:-1]} again.\n* a list of more than eight words that is no prose at all\r\n{PROSE}",
    "No prose",
    "Zwölf Brücken stehen über dem Fluss, und keine von ihnen ist so alt.\u2028Auch diese nicht.",
]
LINES_OF_TEXTS = [
    f"{PROSE} It was the first of its kind, and for many years the only one.",
    f"{PROSE[:-1]} again. {PROSE}",
    "Zwölf Brücken stehen über dem Fluss, und keine von ihnen ist so alt. Auch diese nicht.",
]


def parquet(texts, kind=None, column="text", **how):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": list(range(len(texts))), column: pa.array(texts, kind)}), sink, **how)
    return sink.getvalue().to_pybytes()


def json_lines(texts, key="text"):
    return "".join(json.dumps({"url": "x", key: each}) + "\n" for each in texts).encode()


def zstd(content):
    return pa.compress(content, codec="zstd", asbytes=True)


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def download_text(layout, *sources, overwrite=False, **options):
    source, *more = map(str, sources)
    asked = DownloadOptions(source, more, **options)
    with workers(1) as pool:
        if problems := list(download_problems("text", asked)):
            raise UserError(problems)
        (line,) = download(Preparation(layout, pool, overwrite), asked)
    return line


def format_all(layout, n_processes=1, **options):
    with workers(n_processes) as pool:
        return format_text(Preparation(layout, pool), FormatOptions(**options))


def lines_of(layout):
    path = layout.formatted / "text_one_document_per_line.txt"
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def manifest_of(layout):
    return Manifest.read(layout.formatted_manifest)
