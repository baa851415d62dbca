"""SQuAD: where answers begin and end, fine-tuned, predicted and scored."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from common.errors import Problem, Problems
from common.work import Work
from modeling import BertForQuestionAnswering
from models.flops import question_answering_flops
from tasks.fine_tuning import FineTuningTask
from tasks.inference import INFERENCE_METRICS, inference_in_words
from tasks.setup import note_differences
from tasks.squad.answering import print_answers, score_tokens, write_and_score
from tasks.squad.arguments import DESCRIPTION, SquadFlags, value_problems
from tasks.squad.data import make_dataset, make_synthetic, read_examples
from tasks.squad.dataset import SquadBatch, SquadDataset
from tasks.squad.examples import SquadExample
from tasks.squad.predictions import predict_answers
from training.config.settings import Settings
from training.distributed.world import World


class SquadTask(FineTuningTask):
    """Fine-tuning and its predictions."""

    name = "squad"
    description = DESCRIPTION
    flags = SquadFlags
    first_flags = (
        *("do_train", "do_predict", "do_eval", "train_file", "predict_file", "init_checkpoint", "output_dir"),
        *("train_batch_size", "learning_rate", "num_train_epochs"),
    )
    data_flags = "--train_file, --seed and window flags"
    defaults = {**FineTuningTask.defaults, "num_train_epochs": 2.0, "learning_rate": 3e-5}  # noqa: RUF012  # read only
    model_class = BertForQuestionAnswering
    loss_names = ("loss", "start_loss", "end_loss")
    metrics = (
        *((f"{kind}{end}_loss", None, ":.4f") for kind in ("", "final_") for end in ("start", "end")),
        ("exact_match", "%", ":.2f"),
        ("f1", "%", ":.2f"),
        *INFERENCE_METRICS,
    )

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.examples: dict[str, list[SquadExample]] = {}
        self.predict_dataset: SquadDataset | None = None

    def problems(self) -> Iterator[Problem]:
        return value_problems(self.settings)

    @property
    def data_in_words(self) -> str:
        return f"windows of {self.settings.task.train_file}"

    def open_data(self, world: World, problems: Problems) -> None:
        settings, flags, tokenizer = self.settings, self.settings.task, self.open_tokenizer(problems)
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
        problems.extend([self.few_samples_problem(world.size)])

    def losses(self, model: nn.Module, batch: SquadBatch) -> tuple[Tensor, ...]:
        """Mean, start and end loss."""
        return model(*batch.encoder_inputs, batch.start_positions, batch.end_positions)

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

    @property
    def stage_name(self) -> str:
        return "SQuAD"

    def scores_in_words(self, scores: Mapping[str, float]) -> dict[str, str]:
        names = ("exact_match", "f1", "official_exact_match", "official_f1")
        found = {name: f"{scores[name]:.2f} %" for name in names if name in scores}
        return {
            name.replace("_", " ").replace("f1", "F1"): words for name, words in found.items()
        } | inference_in_words(scores)

    @property
    def guessing_loss(self) -> float:
        """Over the tokens of a full window."""
        return math.log(self.settings.max_seq_length)
