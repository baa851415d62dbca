"""SQuAD: where answers begin and end, fine-tuned, predicted and scored."""

import math
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn

from common.errors import Problem, Problems
from common.work import Matmul, Work
from data.loading.synthetic import describe_lengths
from modeling import BertForQuestionAnswering, prepare_model
from models.config import BERT_CONFIGS, BertConfig
from models.flops import encoder_matmuls, question_answering_flops
from pretrained.load import Fitted, Pretrained, fit, read_pretrained
from tasks.setup import note_differences
from tasks.squad.answering import print_answers, score_tokens, write_and_score
from tasks.squad.arguments import DESCRIPTION, SquadFlags, value_problems
from tasks.squad.data import make_dataset, make_synthetic, open_tokenizer, read_examples
from tasks.squad.dataset import SquadBatch, SquadDataset
from tasks.squad.examples import SquadExample
from tasks.squad.predictions import predict_answers
from training.config.settings import Settings
from training.distributed.world import World
from training.task import Start, Task


class SquadTask(Task):
    """Fine-tuning and its predictions."""

    name = "squad"
    description = DESCRIPTION
    flags = SquadFlags
    data_flags = "--train_file, --seed and window flags"
    defaults = {  # noqa: RUF012  # read only
        "num_train_epochs": 2.0,
        "learning_rate": 3e-5,
        "warmup_proportion": 0.1,
        "optimizer": "adamw",
        "schedule": "linear",
        "num_steps_per_checkpoint": 1000,
    }
    model_class = BertForQuestionAnswering
    loss_names = ("loss", "start_loss", "end_loss")
    metrics = (
        *((f"{kind}{end}_loss", None, ":.4f") for kind in ("", "final_") for end in ("start", "end")),
        ("exact_match", "%", ":.2f"),
        ("f1", "%", ":.2f"),
        ("inference_sequences_per_second", None, ":,.1f"),
        ("inference_tokens_per_second", None, ":,.0f"),
        ("inference_model_tflops_per_second", "TFLOP/s", ":.3g"),
    )

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.pretrained: Pretrained | None = None
        self.examples: dict[str, list[SquadExample]] = {}
        self.predict_dataset: SquadDataset | None = None
        self._fitted: Fitted | None = None
        self._initial: Fitted | None = None
        self._weights = "random weights"
        """Which weights the model began with, for people."""
        self._tokenizer = ""

    def problems(self) -> Iterator[Problem]:
        return value_problems(self.settings)

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
            if self.pretrained is not None:  # before questions are tokenized, which takes its time
                may_be_new = self.settings.trains or bool(self.settings.checkpoints.resume_from_checkpoint)
                self._fitted = fit(self.pretrained, self.model_class, config, heads_may_be_new=may_be_new)
        return config

    def open_data(self, world: World, problems: Problems) -> None:
        settings, flags, tokenizer = self.settings, self.settings.task, None
        if flags.vocab_file or self.pretrained is not None:
            with problems.collect():
                tokenizer = open_tokenizer(flags, settings.model, self.pretrained)
                self._tokenizer = str(tokenizer)
        if flags.eval_script and not Path(flags.eval_script).is_file():
            problems.add(
                f"there is no script {flags.eval_script}", "give --eval_script evaluate-v1.1.py or evaluate-v2.0.py"
            )
        self.examples = read_examples(flags, world, problems)
        for what in ("training", "prediction"):
            ids = [example.id for example in self.examples[what]] if what in self.examples else None
            note_differences(f"{what} questions", ids, world, problems)
        if problems.found:
            return
        if settings.measurement.synthetic is not None:
            self.dataset = make_synthetic(settings, world)
        elif tokenizer is not None and not settings.runtime.check_only:
            sizes = {"training": settings.batches.micro, "prediction": flags.predict_batch_size}
            with problems.collect():
                datasets = {
                    what: make_dataset(settings, examples, tokenizer, sizes[what], world)
                    for what, examples in self.examples.items()
                }
                self.dataset, self.predict_dataset = datasets.get("training"), datasets.get("prediction")
        if self.dataset is not None and self.dataset.n_samples < settings.batches.micro * world.size:
            problems.add(
                f"{flags.train_file} comes to {self.dataset.n_samples} windows, and one micro-batch on all ranks takes "
                f"{settings.batches.micro * world.size}",
                "take a smaller --train_batch_size",
            )

    def read_initial_weights(self, problems: Problems) -> None:
        is_checked = self.settings.runtime.check_only  # and may resume from what is yet to be written
        if self._fitted is not None and not (self.settings.trains or is_checked):
            with problems.collect():  # a head that is new would answer at random
                fit(self.pretrained, self.model_class, self.settings.model)
        self._initial = self._fitted

    def make_model(self) -> nn.Module:
        settings = self.settings
        model = BertForQuestionAnswering(settings.model, settings.runtime.layer_norm)
        if self._initial is not None:
            model.load_state_dict(self._initial.weights, strict=False)
            self._weights = str(self._initial)
        self.pretrained = self._fitted = self._initial = None  # BERT-large's weights take gigabytes
        prepare_model(model, settings.device, settings.execution)
        return model

    def losses(self, forward: nn.Module, batch: SquadBatch) -> tuple[Tensor, ...]:
        """Mean, start and end loss."""
        return forward(*batch.encoder_inputs, batch.start_positions, batch.end_positions)

    def evaluate(self, model: nn.Module, world: World) -> dict[str, float]:
        """Answers to the questions, written to the output folder, and their scores."""
        if self.predict_dataset is None:
            return {}
        flags, examples = self.settings.task, self.examples["prediction"]
        start_logits, end_logits, result = score_tokens(
            model, self.predict_dataset, world, self.settings.device, self.flops
        )
        if world.is_first:
            predictions = predict_answers(examples, self.predict_dataset.features, start_logits, end_logits, flags)
            if flags.question is not None:
                print_answers(predictions)
            else:
                result |= write_and_score(flags, Path(self.settings.output.output_dir), examples, predictions)
        return world.broadcast(result)

    def flops(self, work: Work) -> float:
        return question_answering_flops(self.settings.model, work)

    def matmuls(self, n_tokens: int) -> list[Matmul]:
        return encoder_matmuls(self.settings.model, n_tokens)

    @property
    def guessing_loss(self) -> float:
        """Over the tokens of a full window."""
        return math.log(self.settings.max_seq_length)

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
            source = f"random tokens, {describe_lengths(lengths)}" if lengths else self.settings.task.train_file
            yield f"training on {self.dataset.n_samples:,} windows of {source}"
