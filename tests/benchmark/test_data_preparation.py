"""The benchmark of the data preparation runs, and its unit is the library's own time."""

import re

from corpora import write_text_shard, write_vocab

from benchmark.data_preparation import main


def test_prints_ratios(tmp_path, capsys, monkeypatch):
    vocab, shard = write_vocab(tmp_path / "vocab.txt"), write_text_shard(tmp_path / "shard.txt")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # main sets it; so it is put back
    monkeypatch.setattr("sys.argv", ["data_preparation.py", "--vocab_file", str(vocab), "--repeats", "1", str(shard)])
    main()
    ratios = dict(re.findall(r"^ *([\w ]+): +([\d.]+) ", capsys.readouterr().out, flags=re.MULTILINE))
    assert list(ratios) == ["tokenizers alone", "length 128", "length 512"]
    assert float(ratios["tokenizers alone"]) == 1
    assert min(map(float, ratios.values())) > 0
