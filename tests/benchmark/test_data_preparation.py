"""The benchmark of the data preparation runs, and its unit is the library's own time."""

import re

from corpora import write_text_shard, write_vocab

from benchmark.data_preparation import main


def test_prints_ratios(tmp_path, capsys, monkeypatch):
    vocab, shard = write_vocab(tmp_path / "vocab.txt"), write_text_shard(tmp_path / "shard.txt")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # main sets it; so it is put back
    monkeypatch.setattr("sys.argv", ["data_preparation.py", "--vocab_file", str(vocab), "--repeats", "1", str(shard)])
    main()
    output = capsys.readouterr().out
    ratios = dict(re.findall(r"^ *([\w ,]+): +([\d.]+) ", output, flags=re.MULTILINE))
    lengths = ["length 128", "length 512", "both lengths"]
    assert list(ratios) == ["tokenizers alone", *lengths, "both, whole words", "both, lzf", "both, none"]
    assert float(ratios["tokenizers alone"]) == 1
    assert min(map(float, ratios.values())) > 0
