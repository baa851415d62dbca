"""The BERTs that Google published: one table for the download, the tokenizer and the reader of weights."""

import dataclasses
import os
import re
from pathlib import Path
from types import MappingProxyType

FILES = (  # what each archive holds, in the order of their names
    "bert_config.json",
    "bert_model.ckpt.data-00000-of-00001",
    "bert_model.ckpt.index",
    "bert_model.ckpt.meta",
    "vocab.txt",
)


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """An archive of Google's, who publishes no sums: these were taken from the archives, which never change."""

    nvidia_name: str  # what NVIDIA's data preparation, and `--models` of data/bertPrep.py, call it
    archive: str  # its path below Google's address
    sha256: str  # of what `sha256sum` prints of the FILES in it

    @property
    def folder(self) -> str:
        """The folder in the archive, which has the archive's name."""
        return self.archive.rpartition("/")[2].removesuffix(".zip")

    @property
    def do_lower_case(self) -> bool:
        """Whether its vocabulary is lower-cased."""
        return not re.search(r"(^|_)cased", self.folder)

    def downloaded_to(self, cache_dir: str | os.PathLike | None = None) -> Path:
        """Its folder in `cache_dir`; by default where the data preparation puts it."""
        if cache_dir is None:
            data = Path(__file__).resolve().parent.parent / "data"
            cache_dir = Path(os.environ.get("BERT_PREP_WORKING_DIR") or data) / "download" / "google_pretrained_weights"
        return Path(cache_dir) / self.folder


PUBLISHED_MODELS = MappingProxyType(
    {
        "bert-base-uncased": PublishedModel(
            "bert_base_uncased",
            "2018_10_18/uncased_L-12_H-768_A-12.zip",
            "c47760afeef8d4f758647c824d621c2347e72fe2476690e719f9ca1d23f4d553",
        ),
        "bert-large-uncased": PublishedModel(
            "bert_large_uncased",
            "2018_10_18/uncased_L-24_H-1024_A-16.zip",
            "3b653fe5c5ca544ce9e297be7b9720590713bf72e19f88a5763203a34b3e612f",
        ),
        "bert-base-cased": PublishedModel(
            "bert_base_cased",
            "2018_10_18/cased_L-12_H-768_A-12.zip",
            "8a57f17d5a724bfa950f14815030ab4cdcc331e6bbfacf40b9e3d89ea5846d69",
        ),
        "bert-large-cased": PublishedModel(
            "bert_large_cased",
            "2018_10_18/cased_L-24_H-1024_A-16.zip",
            "7f50b34c8671def2b2153543fcfe9390d5c2afaea690403dd0a3c12a47ba1aaf",
        ),
        "bert-base-multilingual-cased": PublishedModel(
            "bert_base_multilingual_cased",
            "2018_11_23/multi_cased_L-12_H-768_A-12.zip",
            "46cecedc5fbee9df9f5e3b5a1adcbcf05df937950cef81f2c7cdf47f1b2fbb12",
        ),
        "bert-base-multilingual-uncased": PublishedModel(
            "bert_large_multilingual_uncased",
            "2018_11_03/multilingual_L-12_H-768_A-12.zip",
            "75ebea134ec184933509e6cc65412e8edbf0109d5ff475b3ac9db5b22df6273c",
        ),
        "bert-base-chinese": PublishedModel(
            "bert_base_chinese",
            "2018_11_03/chinese_L-12_H-768_A-12.zip",
            "7da6561555d45f72c8ff482a475a33d5d9b204cf8f18811efeef3ca4aa835f34",
        ),
    }
)

PRETRAINED_MODELS = MappingProxyType({model.nvidia_name: model for model in PUBLISHED_MODELS.values()})
