"""The made file is SQuAD, and nearly all of its windows are full."""

import json

import numpy as np
from corpora import write_vocab

from benchmark.made_squad import made_squad
from tasks.squad.examples import read_squad
from tasks.squad.features import squad_features
from tokenization import BertTokenizer


def test_windows_are_full(tmp_path):
    (tmp_path / "made.json").write_text(json.dumps(made_squad(3)))
    examples = read_squad(tmp_path / "made.json", False)
    assert len(examples) == 3
    tokenizer = BertTokenizer(write_vocab(tmp_path / "vocab.txt"))
    features = squad_features(examples, tokenizer, 128, 64, 32, progress=False)
    assert np.mean(features.lengths == 128) > 0.8
