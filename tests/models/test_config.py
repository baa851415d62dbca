"""A configuration with an impossible value is a sentence at once, whichever field and whatever value."""

import dataclasses
import json

import pytest

from common.errors import UserError
from models.config import BertConfig

FIELDS = [field.name for field in dataclasses.fields(BertConfig)]
IMPOSSIBLE = ("-1", "0.5e9", "1e400", "NaN", "-Infinity", "null", "true", '"12"', "[]", "{}", "1" + "0" * 400)


@pytest.mark.parametrize("name", FIELDS)
def test_an_impossible_value_is_named(tmp_path, name):
    path = tmp_path / "config.json"
    for value in IMPOSSIBLE:
        others = {"vocab_size": 100, "hidden_size": 64, "num_attention_heads": 1}
        others.pop(name, None)
        path.write_text(json.dumps(others)[:-1] + f', "{name}": {value}}}', encoding="utf-8")
        with pytest.raises(UserError) as raised:
            BertConfig.from_json_file(path)
        (sentence,) = raised.value.sentences
        assert sentence.startswith(f"{path}: {name} is ")
        assert len(sentence) < 300 + len(str(path))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(BertConfig) if field.type is int])
def test_a_size_that_no_machine_has_is_refused_and_the_largest_published_ones_are_not(name):
    with pytest.raises(UserError, match=rf"{name} is 1000000000; it must be a positive whole number, [\d,]+ at most"):
        BertConfig(**{"vocab_size": 100, name: 10**9})
    large = {"vocab_size": 501_153, "hidden_size": 16_384, "num_hidden_layers": 128, "num_attention_heads": 128}
    assert BertConfig(**large, intermediate_size=65_536, max_position_embeddings=32_768).head_size == 128
