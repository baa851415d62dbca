"""Stages of the data preparation as processes of their own, long enough to be interrupted."""

import bz2
import sys

from corpora import SAMPLE, tree
from paths import ROOT

STAGES = ("download", "text_formatting", "sharding", "create_hdf5_files")
TIMES_LONGER = 20


def write_long_dump(path):
    """The sample's pages many times over, never quite the same, so that most of each stage is work and not imports."""
    dump = bz2.decompress((SAMPLE / "wikicorpus_sample.xml.bz2").read_bytes())
    start, end = dump.index(b"<page>"), dump.rindex(b"</page>") + len(b"</page>")
    pages = dump[start:end]
    texts = (b"\n\nThis is what copy %d of these pages has to say at the end.</text>" % n for n in range(TIMES_LONGER))
    copies = b"\n".join(pages.replace(b"</text>", text) for text in texts)
    path.write_bytes(bz2.compress(dump[:start] + copies + dump[end:], 1))


def command(stage, vocab):
    flags = ["--action", stage, "--dataset", "wikicorpus_en", "--n_processes", "2"]
    if stage == "download":
        flags += ["--source", vocab.parent / "dump.xml.bz2"]
    if stage in ("sharding", "create_hdf5_files"):
        flags += ["--n_training_shards", "5", "--n_test_shards", "2"]
    if stage == "create_hdf5_files":
        flags += ["--max_seq_length", "128", "512", "--max_predictions_per_seq", "20", "80", "--vocab_file", vocab]
    return [sys.executable, ROOT / "data" / "bertPrep.py", *map(str, flags)]


def output(working_dir):
    """All files but locks."""
    return {name: content for name, content in tree(working_dir).items() if not name.endswith(".lock")}
