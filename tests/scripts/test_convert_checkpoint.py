"""scripts/convert_checkpoint.py: from and to every kind of file, and with what it cannot convert."""

import contextlib
import dataclasses
import functools
import io
import json
import re
import subprocess
import sys

import pytest
import torch
import transformers
from paths import ROOT
from published_weights import (
    TINY,
    TOKENS,
    assert_equal_outputs,
    load_with_transformers,
    nvidia_state,
    parameters_equal,
    published_weights,
    random_model,
    write_folder,
    write_google,
)

from common.errors import run_main
from modeling import BertForPreTraining, BertForQuestionAnswering, BertModel
from scripts.convert_checkpoint import main


def convert(*arguments, cwd):
    """Exit status, lines of stdout, and stderr."""
    status, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run_main(functools.partial(main, list(map(str, arguments))))
        except SystemExit as ended:
            status = ended.code
    return status, out.getvalue().splitlines(), err.getvalue()


@pytest.fixture
def google_folder(tmp_path):
    return write_google(tmp_path / "uncased_L-2_H-32_A-4", random_model())


@pytest.fixture
def nvidia_file(tmp_path):
    torch.save({"model": nvidia_state(random_model(BertForQuestionAnswering))}, tmp_path / "nvidia.pt")
    (tmp_path / "tiny.json").write_text(json.dumps(dataclasses.asdict(TINY)))
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    return tmp_path / "nvidia.pt"


def test_google_to_hugging_face_and_on_to_a_pt_file(tmp_path, google_folder):
    status, lines, errors = convert(google_folder, "hf", cwd=tmp_path)
    assert (status, errors) == (0, "")
    assert lines[-1] == "written to hf; load it with transformers.AutoModel.from_pretrained('hf')"
    assert_equal_outputs(random_model(), load_with_transformers(tmp_path / "hf", "BertForPreTraining"))
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "hf").tokenize("The CATS") == ["the", "cat", "##s"]

    status, lines, errors = convert("hf", "out/start.pt", cwd=tmp_path)
    assert (status, errors) == (0, "")
    assert lines[-1] == "written to out/start.pt; load it with --init_checkpoint out/start.pt"
    model = BertForPreTraining(TINY)
    model.load_state_dict(torch.load(tmp_path / "out/start.pt")["model"], strict=False)
    assert parameters_equal(model, random_model())
    # It says its own configuration, so it converts back by itself.
    status, lines, _ = convert("out/start.pt", "again", cwd=tmp_path)
    assert status == 0
    assert any("no tokenizer" in line for line in lines)
    load_with_transformers(tmp_path / "again", "BertForPreTraining")


def test_nvidia_needs_a_configuration_and_trims_to_the_vocabulary(tmp_path, nvidia_file):
    status, _, errors = convert(nvidia_file, "hf", cwd=tmp_path)
    assert status == 2
    assert re.fullmatch(r"error: .*nvidia\.pt does not say .* give --config_file .*\n", errors)
    assert not (tmp_path / "hf").exists()
    # Nothing says how it was tokenized but the vocabulary, which has no capitals.
    assert convert(nvidia_file, "guessed", "--config_file", "tiny.json", cwd=tmp_path)[0] == 0
    assert json.loads((tmp_path / "guessed/tokenizer_config.json").read_text())["do_lower_case"] is True
    arguments = (nvidia_file, "hf", "--config_file", "tiny.json", "--no-do_lower_case")
    status, _, errors = convert(*arguments, cwd=tmp_path)
    assert (status, errors) == (0, "")
    ours = random_model(BertForQuestionAnswering)
    assert_equal_outputs(ours, load_with_transformers(tmp_path / "hf", "BertForQuestionAnswering"))
    assert json.loads((tmp_path / "hf/config.json").read_text())["vocab_size"] == len(TOKENS)
    assert json.loads((tmp_path / "hf/tokenizer_config.json").read_text())["do_lower_case"] is False
    status, _, errors = convert(*arguments, cwd=tmp_path)
    assert status == 2
    assert "--overwrite" in errors
    assert convert(*arguments, "--overwrite", cwd=tmp_path)[0] == 0


def test_a_folder_of_transformers_5_has_its_vocabulary_in_tokenizer_json(tmp_path, google_folder):
    assert convert(google_folder, "hf", cwd=tmp_path)[0] == 0
    for kind in (transformers.AutoTokenizer, transformers.BertForPreTraining):
        kind.from_pretrained(tmp_path / "hf").save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs/vocab.txt").exists()
    status, _, errors = convert("theirs", "back", cwd=tmp_path)
    assert (status, errors) == (0, "")
    assert (tmp_path / "back/vocab.txt").read_text() == (google_folder / "vocab.txt").read_text()
    assert json.loads((tmp_path / "back/tokenizer_config.json").read_text())["do_lower_case"] is True


def test_settings_of_the_tokenizer_are_kept_or_refused(tmp_path, google_folder):
    google_folder = google_folder.rename(tmp_path / "german")
    tokens = (google_folder / "vocab.txt").read_text().replace("cat", "für").replace("[unused3]", "")
    (google_folder / "vocab.txt").write_text("\ufeff" + tokens, encoding="utf-8")
    status, _, errors = convert(google_folder, "hf", cwd=tmp_path)
    assert status == 2
    assert "words with accents or vowel signs, which do_lower_case True would strip; give --no-do_lower_case" in errors
    settings = google_folder / "tokenizer_config.json"
    settings.write_text('{"strip_accents": false, "tokenize_chinese_chars": false}')
    status, lines, _ = convert(google_folder, "hf", cwd=tmp_path)
    assert status == 0
    assert any("vocab.txt: lower-cases text, keeps accents, joins Chinese characters, acc" in line for line in lines)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ids = [line.removesuffix("\n") for line in tokens.splitlines(keepends=True)]
    assert theirs.tokenize("The FÜR 中国") == ["the", "für", "[UNK]"]
    assert theirs.convert_tokens_to_ids("für") == ids.index("für")
    settings.write_text('{"tokenizer_class": "BertJapaneseTokenizer"}')
    status, _, errors = convert(google_folder, "hf2", cwd=tmp_path)
    assert (status, errors.count("error: ")) == (2, 1)
    assert "tokenizer_class is 'BertJapaneseTokenizer'" in errors
    assert not (tmp_path / "hf2").exists()
    assert convert(google_folder, "start.pt", cwd=tmp_path)[0] == 0  # which has weights and no tokenizer


def test_a_vocabulary_of_another_model_is_refused(tmp_path, google_folder):
    (tmp_path / "other.txt").write_text("\n".join([*TOKENS, "one", "more"]) + "\n")
    arguments = (google_folder, "hf", "--vocab_file", "other.txt", "--do_lower_case")
    status, _, errors = convert(*arguments, cwd=tmp_path)
    assert status == 2
    assert "word_embeddings.weight (91, 32) is (89, 32)" in errors
    assert "give the configuration and the vocabulary that it was trained with" in errors
    assert not (tmp_path / "hf").exists()


def test_a_pt_file_is_replaced_only_when_asked(tmp_path, google_folder):
    (tmp_path / "start.pt").write_text("precious")
    status, _, errors = convert(google_folder, "start.pt", cwd=tmp_path)
    assert status == 2
    assert "start.pt exists" in errors
    assert (tmp_path / "start.pt").read_text() == "precious"
    assert convert(google_folder, "start.pt", "--overwrite", cwd=tmp_path)[0] == 0
    assert convert(google_folder, "folder.pt", "--to", "huggingface", cwd=tmp_path)[0] == 0
    load_with_transformers(tmp_path / "folder.pt", "BertForPreTraining")


def test_a_pt_file_has_the_published_names_without_a_head_too(tmp_path):
    model = random_model(BertModel)
    write_folder(tmp_path / "hf", published_weights(model))
    status, _, errors = convert("hf", "bare.pt", cwd=tmp_path)
    assert (status, errors) == (0, "")
    written = torch.load(tmp_path / "bare.pt")["model"]
    assert written.keys() == published_weights(model).keys()
    assert all(torch.equal(weight, written[name]) for name, weight in published_weights(model).items())


def test_help_shows_how(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "convert_checkpoint.py", "--help"]
    text = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    for part in ("examples:", "--to {huggingface,pt}", "--do_lower_case | --no-do_lower_case", "NVIDIA", "TensorFlow"):
        assert part in text
