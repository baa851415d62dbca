"""Stand-ins for MLPerf's files: their sizes are the published ones, and what is read is what was written."""

import pytest
import torch

from benchmark.made_mlperf import main
from common.errors import UserError
from data.mlperf.published import CHECKPOINT, SUMS, wanted_files
from modeling import BertForPreTraining
from models.config import BERT_CONFIGS, BertConfig
from pretrained.load import fit, read_pretrained
from pretrained.tensorflow import read_tensor_bundle
from tokenization import BertTokenizer

DATA = f"{CHECKPOINT}.data-00000-of-00001"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "stand_ins"
    main([str(folder), "--n_documents", "3"])
    return folder


def test_all_files_are_there_by_their_names(made):
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert names == {file.path for file in wanted_files(2, are_stand_ins=True)}


def test_berts_weights_come_back(made):
    config = BertConfig.from_json_file(made / "bert_config.json")
    torch.manual_seed(0)
    expected = BertForPreTraining(config).state_dict()
    found = fit(read_pretrained(made / CHECKPOINT), BertForPreTraining, config, False).weights
    for name, weight in found.items():
        assert torch.equal(weight, expected[name]), name
    assert expected.keys() - found.keys() <= {"cls.predictions.decoder.weight"}


def test_lambs_slots_lie_beside_each_weight(made):
    names = read_tensor_bundle(made / f"{CHECKPOINT}.index").keys()
    weights = {name for name in names if name.endswith("/kernel")}
    assert {f"{name}/{slot}" for name in weights for slot in ("LAMB", "LAMB_1")} <= names


def n_bytes(name):
    """Of a model's checkpoint: each weight and its two slots in fp32, two counters in fp32, the step in int64."""
    with torch.device("meta"):
        weights = BertForPreTraining(BertConfig.from_json_file(BERT_CONFIGS[name])).state_dict()
    del weights["cls.predictions.decoder.weight"]
    return 3 * 4 * sum(weight.numel() for weight in weights.values()) + 2 * 4 + 8


def test_the_published_checkpoint_holds_as_much_for_its_shape(made):
    assert n_bytes("large") == SUMS[DATA][0]
    assert n_bytes("tiny") == (made / DATA).stat().st_size


def test_the_text_is_made_of_the_vocabulary(made):
    tokenizer = BertTokenizer(made / "vocab.txt", do_lower_case=True)
    documents = (made / "text" / "eval.txt").read_text("utf-8").split("\n\n")
    assert len(documents) == 3
    assert "[UNK]" not in tokenizer.tokenize(documents[0])


def test_a_folder_that_is_there_is_left_alone(made):
    with pytest.raises(UserError, match="is there already; choose another name, or remove it"):
        main([str(made)])
