"""Where each stage of the data preparation reads and writes.

The names are those of NVIDIA's scripts, which other tools and people's habits rely on. They spell out the parameters
that shape a stage's output, so that two settings never share a folder. All lie under $BERT_PREP_WORKING_DIR.
"""

import dataclasses
import os
from pathlib import Path
from types import MappingProxyType

from data.artifacts.manifest import FILE_NAME
from data.masked_lm.instances import InstanceOptions

BOTH = "books_wiki_en_corpus"
SQUAD, WEIGHTS = "squad", "google_pretrained_weights"
GLUE = "glue"
GLUE_FOLDERS = MappingProxyType(
    {
        **{name.lower(): name for name in ("CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI")},
        "ax": "diagnostic",
    }
)
"""Of GLUE's tasks, by their names."""
SPLITS = ("training", "test")


def default_working_dir() -> Path:
    """$BERT_PREP_WORKING_DIR, or the folder of these sources: the project's data/."""
    return Path(os.environ.get("BERT_PREP_WORKING_DIR") or Path(__file__).resolve().parents[1])


@dataclasses.dataclass(frozen=True)
class Layout:
    """The folders and files of the data preparation for one dataset."""

    working_dir: Path
    dataset: str

    @property
    def download(self) -> Path:
        folder = self.working_dir / "download"
        return folder / GLUE / GLUE_FOLDERS[self.dataset] if self.dataset in GLUE_FOLDERS else folder / self.dataset

    @property
    def extracted(self) -> Path:
        return self.working_dir / "extracted" / self.dataset

    @property
    def formatted(self) -> Path:
        """All datasets' formatted texts."""
        return self.working_dir / "formatted_one_article_per_line"

    @property
    def formatted_manifest(self) -> Path:
        """It has the dataset's name, as datasets share the folder."""
        return self.formatted / f"{self.dataset}.{FILE_NAME}"

    def sharded(self, n_training_shards: int, n_test_shards: int, fraction_test_set: float) -> Path:
        name = f"sharded_training_shards_{n_training_shards}_test_shards_{n_test_shards}_fraction_{fraction_test_set}"
        return self.working_dir / name / self.dataset

    def hdf5(self, do_lower_case: bool, random_seed: int, options: InstanceOptions) -> Path:
        name = (
            f"hdf5_lower_case_{int(do_lower_case)}_seq_len_{options.max_seq_length}"
            f"_max_pred_{options.max_predictions_per_seq}_masked_lm_prob_{options.masked_lm_prob}"
            f"_random_seed_{random_seed}_dupe_factor_{options.dupe_factor}"
        )
        return self.working_dir / name / self.dataset

    def shard_names(self, n_training_shards: int, n_test_shards: int) -> list[str]:
        """Names without their endings, such as wikicorpus_en_training_0."""
        counts = zip(SPLITS, (n_training_shards, n_test_shards), strict=True)
        return [f"{self.dataset}_{split}_{index}" for split, count in counts for index in range(count)]
