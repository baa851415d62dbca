"""Pre-training: both heads on masked pairs of sentences, in two phases that share a folder of checkpoints."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.checkpoint_files import find_checkpoints
from common.errors import Problem, Problems
from common.words import counted
from common.work import Matmul, Work
from data.loading.flat_batch import IGNORE_INDEX, PretrainingBatch
from data.loading.pretraining_dataset import PretrainingDataset
from modeling import BertForPreTraining, prepare_model
from models.config import BERT_CONFIGS, BertConfig
from models.flops import bert_flops, encoder_matmuls
from pretrained.load import Fitted, fit, read_pretrained
from tasks.pretraining.arguments import DESCRIPTION, PretrainingFlags, value_problems
from tasks.pretraining.data import open_datasets, tokens_problem
from tasks.pretraining.mllog import MlperfLog, note_resumed, overwrite_problem
from tasks.pretraining.mlperf_rules import closed_division_problems
from tasks.setup import note_differences, vocabulary_problem
from training.config.settings import Settings
from training.distributed.world import World
from training.evaluation import Evaluations, Target
from training.observer import RunObserver
from training.task import Stage, Start, Task

FIRST_ACCURACY_TOLERANCE = 0.005
"""More than precision and form of GELU change, and less than wrong weights or tokens do."""


class PretrainingTask(Task):
    """One phase of pre-training."""

    name = "pretraining"
    description = DESCRIPTION
    flags = PretrainingFlags
    first_flags = (
        *("do_train", "input_dir", "output_dir", "bert_model", "max_seq_length", "max_predictions_per_seq"),
        *("train_batch_size", "learning_rate", "max_steps", "resume_from_checkpoint"),
    )
    data_flags = "--input_dir, --seed and --masking"
    model_class = BertForPreTraining
    loss_names = ("loss", "mlm_loss", "nsp_loss")
    metrics = (
        *((f"{kind}{head}_loss", None, ":.4f") for kind in ("", "final_", "eval_") for head in ("mlm", "nsp")),
        *((f"eval_{head}_accuracy", None, ":.2%") for head in ("mlm", "nsp")),
    )

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.eval_dataset = None
        self._initial: Fitted | None = None
        self._weights = ""
        """Which weights the model began with, for people; "" for random ones."""

    def problems(self) -> Iterator[Problem]:
        return value_problems(self.settings)

    def read_model(self, problems: Problems) -> BertConfig | None:
        flags, config = self.settings.task, None
        with problems.collect():
            config = BertConfig.from_json_file(flags.config_file or BERT_CONFIGS[flags.bert_model])
            if flags.num_hidden_layers is not None:
                config = dataclasses.replace(config, num_hidden_layers=flags.num_hidden_layers)
            if flags.vocab_file:
                has_weights = self.settings.checkpoints.init_checkpoint is not None
                problems.extend([vocabulary_problem(flags.vocab_file, config, has_weights)])
        return config

    def open_data(self, world: World, problems: Problems) -> None:
        self.dataset, self.eval_dataset = open_datasets(self.settings, world, problems)
        for what, dataset in (("training shards", self.dataset), ("evaluation shards", self.eval_dataset)):
            shards = None  # of random tokens there are none
            if isinstance(dataset, PretrainingDataset):
                files = [(file.name, int(n)) for file, n in zip(dataset.files, dataset.rows_per_file, strict=True)]
                shards = files, dataset.reading
                if dataset.masking:
                    rule, probability = dataset.masking.rule, dataset.masking.masked_lm_prob
                    self.settings = self.settings.with_resolved("task", masking_rule=rule, masked_lm_prob=probability)
            note_differences(what, shards, world, problems)
        problems.extend(self._mllog_problems())

    def _mllog_problems(self) -> Iterator[Problem | None]:
        settings, flags = self.settings, self.settings.task
        if flags.mllog is None:
            return
        resumes = settings.checkpoints.resume_from_checkpoint and find_checkpoints(settings.output.output_dir)
        if not resumes:
            yield overwrite_problem(Path(flags.mllog))
        if flags.mllog_division == "closed":
            yield from closed_division_problems(settings, self.eval_dataset and self.eval_dataset.n_samples)

    def read_initial_weights(self, problems: Problems) -> None:
        if path := self.settings.checkpoints.init_checkpoint:
            with problems.collect():
                pretrained = read_pretrained(path)
                if isinstance(self.dataset, PretrainingDataset):
                    vocab_file = self.settings.task.vocab_file
                    problems.extend([tokens_problem(Path(self.dataset.source), pretrained.path.parent, vocab_file)])
                if self.settings.model is not None:
                    self._initial = fit(pretrained, self.model_class, self.settings.model, self.settings.trains)

    def make_model(self) -> nn.Module:
        settings = self.settings
        model = BertForPreTraining(settings.model, settings.runtime.layer_norm)
        if self._initial is not None:
            model.load_state_dict(self._initial.weights, strict=False)
            self._weights, self._initial = str(self._initial), None  # BERT-large's weights take gigabytes
        prepare_model(model, settings.device, settings.execution)
        model.is_dense = not settings.task.no_dense_sequence_output
        return model

    def losses(self, model: nn.Module, batch: PretrainingBatch) -> tuple[Tensor, ...]:
        """Total, masked-LM and next-sentence loss."""
        labels = batch.masked_lm_positions, batch.masked_lm_labels, batch.next_sentence_labels
        return model(*batch.encoder_inputs, *labels)

    def evaluate(self, model: nn.Module, world: World) -> dict[str, float]:
        """Losses and accuracies on the held-out shards."""
        if self.eval_dataset is None:
            return {}
        with self.eval_dataset.evaluation_batches() as batches:
            scores = evaluate_pretraining(model, batches, self.settings.device, world.sum_)
        return {f"eval_{name}": value for name, value in scores.items()}

    def flops(self, work: Work) -> float:
        return bert_flops(self.settings.model, work)

    def matmuls(self, n_sequences: int) -> list[Matmul]:
        return encoder_matmuls(self.settings.model, n_sequences, self.settings.max_seq_length, self.n_read)

    @property
    def n_read(self) -> int | None:
        """[CLS] and the masked ones."""
        flags = self.settings.task
        return None if flags.no_dense_sequence_output else 1 + flags.max_predictions_per_seq

    @property
    def guessing_loss(self) -> float:
        """Over the vocabulary, and over two next sentences."""
        return math.log(self.settings.model.vocab_size) + math.log(2)

    def announce(self, devices: str, start: Start) -> Iterator[str]:
        """Device, size and data; without training, whose weights are scored."""
        settings = self.settings
        yield f"{devices} | {counted(self.dataset.n_samples, 'sequence')}: {self.dataset.source}"
        if settings.task.masking == "dynamic":
            yield self.dataset.reading
        if self._weights:
            yield self._weights
        if not settings.trains:
            step = self.stage.first_step + start.first_step
            resumed = f"step {step} in {settings.output.output_dir}"
            weights = settings.checkpoints.init_checkpoint if start.resumed_step is None else resumed
            yield f"evaluating the weights of {weights} on {settings.task.eval_dir}"

    def observer(self, world: World, start: Start, started: float, tell: Callable[[str], object]) -> RunObserver:
        """MLPerf's log, where it is asked for; a run that is resumed is none that it could tell of."""
        if self.settings.task.mllog is None or not world.is_first:
            return RunObserver()
        path = Path(self.settings.task.mllog)
        if start.resumed_step is not None:
            note_resumed(path)
            tell(f"warning: MLPerf's rules know no resumed run, so {path} stays the log of the start before")
            return RunObserver()
        tell(f"MLPerf's log: {path}; what it says was not verified by MLCommons")
        return MlperfLog(path, self.settings, start, world.size, self.eval_dataset.n_samples, started, tell)

    @property
    def stage_name(self) -> str:
        return "phase 2" if self.settings.task.phase2 else "phase 1"

    def scores_in_words(self, scores: Mapping[str, float]) -> dict[str, str]:
        heads = (("masked LM", "mlm"), ("next sentence", "nsp"))
        return {
            name: f"{100 * scores[f'eval_{head}_accuracy']:.2f} % right, loss {scores[f'eval_{head}_loss']:.4f}"
            for name, head in heads
            if f"eval_{head}_loss" in scores
        }

    @property
    def stage(self) -> Stage:
        flags, folder = self.settings.task, self.settings.output.output_dir
        required = None
        if flags.resume_phase2:
            required = Problem(f"--resume_phase2: {folder} has no checkpoint of phase 2", "leave it out to start one")
        first_step = flags.phase1_end_step if flags.phase2 else 0
        return Stage(first_step, flags.phase2, required, "--phase1_end_step")

    @property
    def evaluations(self) -> Evaluations:
        flags = self.settings.task
        every, accuracy = (flags.num_steps_per_evaluation, flags.num_samples_per_evaluation), flags.target_mlm_accuracy
        target = accuracy and Target("eval_mlm_accuracy", accuracy, f"a masked-LM accuracy of {accuracy:g}")
        return Evaluations(*every, flags.evaluate_first, target)

    def warnings(self, scores: dict[str, float]) -> Iterator[str]:
        expected, found = self.settings.task.expected_mlm_accuracy, scores["eval_mlm_accuracy"]
        if expected is not None and not abs(found - expected) <= FIRST_ACCURACY_TOLERANCE:
            yield (
                f"before training the masked-LM accuracy is {found:.5f}, and {expected:.5f} was expected: weights, "
                f"configuration, vocabulary or held-out shards are others than those it was measured with"
            )


@torch.no_grad()
def evaluate_pretraining(
    model: nn.Module,
    batches: Iterable[PretrainingBatch],
    device: torch.device,
    sum_over_ranks: Callable[[Tensor], object],
) -> dict[str, float]:
    """Means over every held-out masked position and every held-out pair; losses in nats.

    Args:
        batches: on several ranks each gives its share, which may be none.
        sum_over_ranks: adds a tensor up over ranks, in place.
    """
    model.eval()
    totals = torch.zeros(2, 3, dtype=torch.float64, device=device)  # of both heads: losses, correct ones, labels
    for host_batch in batches:
        batch = host_batch.to(device)
        predictions = model.predict(*batch.encoder_inputs, batch.masked_lm_positions, len(batch.next_sentence_labels))
        for head, labels in enumerate((batch.masked_lm_labels, batch.next_sentence_labels)):
            logits, is_label = predictions[head], labels != IGNORE_INDEX
            loss = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
            totals[head] += torch.stack([loss, ((logits.argmax(1) == labels) & is_label).sum(), is_label.sum()])
    sum_over_ranks(totals)
    (mlm_loss, mlm_correct, n_masked), (nsp_loss, nsp_correct, n_sequences) = totals.tolist()
    return {
        "mlm_loss": mlm_loss / (n_masked or math.nan),
        "mlm_accuracy": mlm_correct / (n_masked or math.nan),
        "nsp_loss": nsp_loss / n_sequences,
        "nsp_accuracy": nsp_correct / n_sequences,
        "n_sequences": int(n_sequences),
        "n_masked": int(n_masked),
    }
