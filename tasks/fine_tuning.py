"""What all fine-tuning shares: the model is anybody's, with a head of the task's, and its data are text.

Shape, vocabulary and casing come with the weights, unless flags say them.
"""

import abc
import functools
from collections.abc import Iterator

from torch import nn

import tokenization
from common.errors import Problem, Problems, UserError
from common.work import Matmul
from data.loading.synthetic import describe_lengths
from modeling import prepare_model
from models.config import BERT_CONFIGS, BertConfig
from models.flops import encoder_matmuls
from pretrained.load import Fitted, Pretrained, fit, read_pretrained
from tokenization import BertTokenizer
from training.config.flags import flag
from training.config.settings import Settings, flags
from training.task import Start, Task

_model = functools.partial(flag, title="model and vocabulary")


@flags
class FineTuningFlags:
    """What to do, on which data, with which model."""

    do_train: bool = flag(False, "fine-tune")
    do_predict: bool = flag(False, "predict")
    do_eval: bool = flag(False, "score the predictions")

    bert_model: str | None = _model(
        None,
        "a shipped configuration (default: that of --init_checkpoint, else bert-large-uncased)",
        choices=BERT_CONFIGS,
        metavar="NAME",
    )
    config_file: str | None = _model(None, "a bert_config.json, instead of --bert_model")
    vocab_file: str | None = _model(None, "vocab.txt or tokenizer.json (default: the one beside --init_checkpoint)")
    do_lower_case: bool | None = _model(
        None,
        "whether the vocabulary is uncased (default: what the files beside it or --init_checkpoint, or its words, say)",
    )


def source_problems(settings: Settings) -> Iterator[Problem]:
    """Where the flags name no weights to predict with, or no vocabulary."""
    flags, checkpoints = settings.task, settings.checkpoints
    if not (flags.do_train or checkpoints.resume_from_checkpoint or checkpoints.init_checkpoint):
        yield Problem("there are no weights to answer with", "add --resume_from_checkpoint or --init_checkpoint")
    if checkpoints.init_checkpoint is None and flags.vocab_file is None and settings.measurement.synthetic is None:
        yield Problem("there is no vocabulary", "give --vocab_file, or an --init_checkpoint with one beside it")


class FineTuningTask(Task):
    """A task that starts from anybody's BERT. Its flags derive from `FineTuningFlags`."""

    warmup_proportion = 0.1
    defaults = {  # noqa: RUF012  # read only
        "optimizer": "adamw",
        "schedule": "linear",
        "num_steps_per_checkpoint": 1000,
    }

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.pretrained: Pretrained | None = None
        self._fitted: Fitted | None = None
        self._initial: Fitted | None = None
        self._weights = "random weights"
        """Which weights the model began with, for people."""
        self._tokenizer = ""

    @property
    @abc.abstractmethod
    def data_in_words(self) -> str:
        """What is trained on: "windows of train.json"."""

    def read_model(self, problems: Problems) -> BertConfig | None:
        """The configuration of the flags, else that of the weights, else BERT-large's."""
        flags, path, config = self.settings.task, self.settings.checkpoints.init_checkpoint, None
        if path:
            with problems.collect():
                self.pretrained = read_pretrained(path)
        with problems.collect():
            if self.pretrained is not None and not (flags.config_file or flags.bert_model):
                config = self.pretrained.known_config()
            else:
                config = BertConfig.from_json_file(flags.config_file or BERT_CONFIGS[flags.bert_model or "large"])
            if self.pretrained is not None:  # before text is tokenized, which takes its time
                may_be_new = self.settings.trains or bool(self.settings.checkpoints.resume_from_checkpoint)
                self._fitted = fit(self.pretrained, self.model_class, config, heads_may_be_new=may_be_new)
        return config

    def open_tokenizer(self, problems: Problems) -> BertTokenizer | None:
        """The tokenizer of the vocabulary that the flags name or that lies beside the weights; None without one."""
        flags, config, tokenizer = self.settings.task, self.settings.model, None
        if flags.vocab_file or self.pretrained is not None:
            with problems.collect():
                tokenizer = _open_tokenizer(flags, config, self.pretrained)
                self._tokenizer = str(tokenizer)
        return tokenizer

    def read_initial_weights(self, problems: Problems) -> None:
        is_checked = self.settings.runtime.check_only  # and may resume from what is yet to be written
        if self._fitted is not None and not (self.settings.trains or is_checked):
            with problems.collect():  # a head that is new would answer at random
                fit(self.pretrained, self.model_class, self.settings.model)
        self._initial = self._fitted

    def make_model(self) -> nn.Module:
        settings = self.settings
        model = self.model_class(settings.model, settings.runtime.layer_norm)
        if self._initial is not None:
            model.load_state_dict(self._initial.weights, strict=False)
            self._weights = str(self._initial)
        self.pretrained = self._fitted = self._initial = None  # BERT-large's weights take gigabytes
        prepare_model(model, settings.device, settings.execution)
        return model

    def matmuls(self, n_sequences: int) -> list[Matmul]:
        return encoder_matmuls(self.settings.model, n_sequences, self.settings.max_seq_length, self.n_read)

    def few_samples_problem(self, world_size: int) -> Problem | None:
        """Why the training data do not fill one micro-batch; None where they do, or where there are none."""
        needed = self.settings.batches.micro * world_size if self.dataset is not None else 0
        if self.dataset is None or self.dataset.n_samples >= needed:
            return None
        return Problem(
            f"there are {self.dataset.n_samples} {self.data_in_words}, and one micro-batch on all ranks takes {needed}",
            "take a smaller --train_batch_size",
        )

    def announce(self, devices: str, start: Start) -> Iterator[str]:
        """Device, size, weights and data."""
        yield devices
        if start.resumed_step is not None:
            yield f"the weights of step {start.resumed_step} in {self.settings.output.output_dir}"
        else:
            yield self._weights
        if self._tokenizer:
            yield self._tokenizer
        if self.dataset is not None:
            lengths = self.settings.measurement.synthetic
            data = f"sequences of random tokens, {describe_lengths(lengths)}" if lengths else self.data_in_words
            yield f"training on {self.dataset.n_samples:,} {data}"


def _open_tokenizer(flags: FineTuningFlags, config: BertConfig | None, pretrained: Pretrained | None) -> BertTokenizer:
    """Raises UserError where there is none, or where it is not the model's."""
    vocab_file = flags.vocab_file or pretrained.vocab_file
    if vocab_file is None:
        raise UserError(
            f"{pretrained.path} has no vocabulary beside it", "give --vocab_file the one it was trained with"
        )
    tokenizer = tokenization.open_tokenizer(vocab_file, flags.do_lower_case, pretrained and pretrained.path.parent)
    if config is not None and tokenizer.vocab_size > config.vocab_size:  # rows that no token has are never met
        raise UserError(
            f"the vocabulary {vocab_file} has {tokenizer.vocab_size} entries and the model's configuration says "
            f"vocab_size {config.vocab_size}",
            "give --vocab_file the one the model was trained with",
        )
    return tokenizer
