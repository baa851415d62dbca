"""common/published_models.py: the table is whole, and names tell what they should."""

from pathlib import Path

from common.published_models import PRETRAINED_MODELS, PUBLISHED_MODELS


def test_every_model_has_sums_and_two_names():
    assert len(PUBLISHED_MODELS) == len(PRETRAINED_MODELS) == 7
    for model in PUBLISHED_MODELS.values():
        assert len(model.sha256) == 64
        assert PRETRAINED_MODELS[model.nvidia_name] is model


def test_names_tell_the_casing():
    for name, model in PUBLISHED_MODELS.items():
        assert model.do_lower_case == (not name.endswith("-cased")), name


def test_where_a_download_lies(monkeypatch, tmp_path):
    model = PUBLISHED_MODELS["bert-base-chinese"]
    assert model.downloaded_to("cache") == Path("cache/chinese_L-12_H-768_A-12")
    monkeypatch.setenv("BERT_PREP_WORKING_DIR", str(tmp_path))
    assert model.downloaded_to() == tmp_path / "download/google_pretrained_weights/chinese_L-12_H-768_A-12"
    monkeypatch.delenv("BERT_PREP_WORKING_DIR")
    root = Path(__file__).resolve().parents[2]
    assert model.downloaded_to() == root / "data/download/google_pretrained_weights/chinese_L-12_H-768_A-12"
