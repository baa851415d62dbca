"""From MLPerf's files to what its benchmark reads: a configuration, evaluation rows and training shards."""

import json
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.json_files import read_json
from data import stages
from data.artifacts.manifest import FILE_NAME, FileRecord
from data.artifacts.stage_output import Preparation
from data.loading.prepared import MAX_FILLING_ROWS
from data.masked_lm.hdf5_writer import write_instances
from data.masked_lm.instances import SpecialIds
from data.mlperf.evaluation_rows import (
    N_ROWS,
    SEED,
    as_instances,
    checksum,
    make_rows,
    pick_rows,
    published_options,
    read_documents,
)
from data.mlperf.published import CONFIG, EVALUATION_TEXT, SUM_OF_EVALUATION_ROWS, VOCAB
from file_utils import atomic_write, sha256_of
from tokenization import CLS, MASK, SEP, UNK, BertTokenizer, load_vocab, open_tokenizer

TANH_CONFIG = "bert_config_tanh.json"
EVALUATION_SHARD = "mlperf_bert_test_0.hdf5"
SUM_FACT, N_ALL_FACT = "nvidia_md5", "n_examples"


def write_tanh_config(folder: Path) -> str:
    """The published configuration with the name of the GELU that the reference computes.

    Raises:
        UserError: the vocabulary is not the configuration's.
    """
    values = read_json(folder / CONFIG, "model configuration", "get it again")
    n_rows, n_tokens = values.get("vocab_size"), len(load_vocab(folder / VOCAB))
    if not isinstance(n_rows, int) or not n_tokens <= n_rows <= n_tokens + MAX_FILLING_ROWS:
        raise UserError(
            f"{folder / VOCAB} has {n_tokens:,} tokens, and {folder / CONFIG} says vocab_size {n_rows}",
            "take both from the same model",
        )
    with atomic_write(folder / TANH_CONFIG) as file:
        json.dump(values | {"hidden_act": "gelu_new"}, file, indent=2, sort_keys=True)
        file.write("\n")
    return f"{folder / TANH_CONFIG}: {CONFIG} with the tanh form of GELU, which the reference computes"


def make_evaluation_shard(
    preparation: Preparation, folder: Path, text: FileRecord, compression: str, is_stand_in: bool
) -> Iterator[str]:
    """eval/ of a folder that has eval.txt and the vocabulary; lines that say what was made and whether it is right."""
    options = published_options()
    tokenizer = BertTokenizer(folder / VOCAB, do_lower_case=True, as_google=True)
    parameters = {
        **options.parameters(),
        "do_lower_case": True,
        "random_seed": SEED,
        "compression": compression,
        "vocabulary": _vocabulary(tokenizer),
        "n_rows": N_ROWS,
        "draws": "in the order of MLPerf's reference",
    }
    target = folder / "eval"
    inputs, libraries = {folder / EVALUATION_TEXT: text}, ["numpy", "h5py", "tokenizers"]
    output = preparation.output(target / FILE_NAME, "create_hdf5_files", parameters, inputs, libraries)

    def make(new: Path) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
        examples = make_rows(
            read_documents(folder / EVALUATION_TEXT, tokenizer), options, SpecialIds.of(tokenizer.vocab)
        )
        rows = pick_rows(examples)
        record = write_instances(new / EVALUATION_SHARD, len(rows), [as_instances(rows, options)], compression)
        facts = {SUM_FACT: checksum(rows), N_ALL_FACT: len(examples), "unk": tokenizer.vocab[UNK]}
        return {EVALUATION_SHARD: record.counts}, facts

    manifest = output.finished(sorted(target.glob("*.hdf5")))
    if manifest:
        yield manifest.skipped(target)
    else:
        yield "evaluation rows: one process with one generator, about a minute for the published text"
        manifest = output.make_folder(make)
        n_rows, n_all = manifest.total("rows"), manifest.facts[N_ALL_FACT]
        yield f"{n_rows:,} evaluation rows of {n_all:,} examples in {target}"
        if n_rows < N_ROWS:
            yield f"warning: the text gives no {N_ROWS:,} examples, so all of them are taken"
    yield _verdict(manifest.facts[SUM_FACT], is_stand_in)


def make_training_shards(
    preparation: Preparation, folder: Path, texts: Mapping[str, FileRecord], compression: str
) -> Iterator[str]:
    """training/ of a folder, of the parts of the text that are named; a line for each thing that was done."""
    inputs = {folder / path: record for path, record in texts.items()}
    tokenizer = open_tokenizer(folder / VOCAB, do_lower_case=True)
    folders = {folder / "training": published_options()}
    yield from stages.create_hdf5_files(preparation, inputs, folders, tokenizer, SEED, compression)


def _vocabulary(tokenizer: BertTokenizer) -> dict[str, object]:
    special = {name: tokenizer.vocab[token] for name, token in (("cls", CLS), ("sep", SEP), ("mask", MASK))}
    return {"sha256": sha256_of(tokenizer.vocab_file), "size": tokenizer.vocab_size, **special}


def _verdict(found: str, is_stand_in: bool) -> str:
    """Whether the rows are the published ones, by their checksum."""
    if is_stand_in:
        return f"the checksum of the evaluation rows is {found}; of a stand-in text none is published"
    if found == SUM_OF_EVALUATION_ROWS:
        return f"the evaluation rows are the published ones: their checksum is NVIDIA's, {found}"
    return (
        f"warning: the checksum of the evaluation rows is {found}, and NVIDIA's is {SUM_OF_EVALUATION_ROWS}; the text "
        f"is the published one, so Unicode {unicodedata.unidata_version} probably splits some words otherwise than the "
        "11.0 of that time, and scores may differ in the last digits."
    )
