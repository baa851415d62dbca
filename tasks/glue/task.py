"""GLUE: what is to be said of one text or of two, fine-tuned, scored and predicted."""

import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from common.errors import Problem, Problems
from common.words import counted
from common.work import Work
from data.loading.labelled_pairs import LabelledBatch, LabelledDataset, synthetic_sequences, tokenized
from data.loading.synthetic import N_BATCHES, mean_length
from file_utils import sha256_of
from modeling import SEQUENCE_MODELS, BertForSequenceClassification
from models.flops import classification_flops
from tasks.fine_tuning import FineTuningTask
from tasks.glue.arguments import DESCRIPTION, GlueFlags, value_problems
from tasks.glue.benchmarks import BENCHMARKS, Benchmark
from tasks.glue.examples import GlueExamples, read_glue
from tasks.glue.predictions import predictions_of, write_submission
from tasks.inference import INFERENCE_METRICS, inference_in_words, outputs_of_sequences
from tasks.metrics import METRICS
from tasks.setup import note_differences
from training.config.settings import Settings
from training.distributed.world import World

N_SYNTHETIC_SEQUENCES = 4096


class GlueTask(FineTuningTask):
    """Fine-tuning on one of GLUE's tasks."""

    name = "glue"
    description = DESCRIPTION
    flags = GlueFlags
    first_flags = (
        *("task_name", "data_dir", "do_train", "do_eval", "do_predict", "init_checkpoint", "output_dir"),
        *("train_batch_size", "learning_rate", "num_train_epochs"),
    )
    data_flags = "--task_name, --data_dir and --seed"
    defaults = {**FineTuningTask.defaults, "num_train_epochs": 3.0, "learning_rate": 2e-5}  # noqa: RUF012  # read only
    model_class = BertForSequenceClassification
    metrics = (
        *((prefix + name, None, ":.4f") for prefix in ("", "mismatched_") for name in (*METRICS, "score")),
        *INFERENCE_METRICS,
    )

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.benchmark: Benchmark = BENCHMARKS[settings.task.task_name or "mrpc"]  # without one, a problem is noted
        self.model_class = SEQUENCE_MODELS[self.benchmark.n_outputs - 1]
        self.scored: dict[str, LabelledDataset] = {}
        """Development sets, by the prefix of their metrics."""
        self.predicted: dict[str, LabelledDataset] = {}
        """Test sets, by the name of their file in a submission."""

    def problems(self) -> Iterator[Problem]:
        return value_problems(self.settings)

    @property
    def data_in_words(self) -> str:
        return f"sequences of {self.benchmark.folder}"

    def open_data(self, world: World, problems: Problems) -> None:
        settings, tokenizer = self.settings, self.open_tokenizer(problems)
        examples = self._read_files(world, problems)
        if problems.found or settings.runtime.check_only:
            return
        longest, micro, size = settings.max_seq_length, settings.batches.micro, settings.task.eval_batch_size
        ranks = settings.optimization.seed, world.rank, world.size
        for (use, name), rows in examples.items():
            sequences = tokenized(*rows, tokenizer, longest)
            dataset = LabelledDataset(sequences, micro if use == "train" else size, longest, *ranks)
            if use == "train":
                self.dataset = dataset
            else:
                (self.scored if use == "score" else self.predicted)[name] = dataset
        if settings.measurement.synthetic is not None:
            n = max(N_SYNTHETIC_SEQUENCES, N_BATCHES * micro * world.size)
            shape = longest, settings.model.vocab_size, len(self.benchmark.texts), self.benchmark.n_outputs
            sequences = synthetic_sequences(n, *shape, mean_length(settings.measurement.synthetic))
            self.dataset = LabelledDataset(sequences, micro, longest, *ranks)
        problems.extend([self.few_samples_problem(world.size)])

    def _read_files(self, world: World, problems: Problems) -> dict[tuple[str, str], GlueExamples]:
        """The rows of every file that is asked for, by what it is for and by its name there."""
        flags, files, examples = self.settings.task, [], {}
        if flags.do_train and self.settings.measurement.synthetic is None:
            files.append(("train", "", "train.tsv"))
        files += [("score", *names) for names in self.benchmark.dev if flags.do_eval]
        files += [("predict", *names) for names in self.benchmark.test_files if flags.do_predict]
        if flags.data_dir is None or flags.task_name is None:
            return {}
        inner = Path(flags.data_dir) / self.benchmark.folder
        folder = inner if inner.is_dir() else Path(flags.data_dir)
        report = functools.partial(print, flush=True) if world.is_first else lambda sentence: None
        for use, name, file in files:
            digest = None
            with problems.collect():
                examples[use, name] = read_glue(folder / file, self.benchmark, use, report)
                digest = sha256_of(folder / file)
            note_differences(f"data, {file}", digest, world, problems)
        return examples

    def losses(self, model: nn.Module, batch: LabelledBatch) -> tuple[Tensor, ...]:
        """The one loss."""
        return (model(*batch.encoder_inputs, batch.labels),)

    def evaluate(self, model: nn.Module, world: World) -> dict[str, float]:
        """Scores of the development sets; predictions of the test sets are written to the output folder."""
        result, scores, benchmark = {}, {}, self.benchmark
        for name, dataset in (*self.scored.items(), *self.predicted.items()):
            outputs, throughput = outputs_of_sequences(model, dataset, world, self.settings.device, self.flops)
            result = throughput | result  # that of the first
            predicted = predictions_of(outputs, benchmark)
            if name in self.scored:
                scores |= {name + metric: METRICS[metric](predicted, dataset.labels) for metric in benchmark.metrics}
            elif world.is_first:
                path = Path(self.settings.output.output_dir) / f"{name}.tsv"
                write_submission(path, predicted, benchmark)
                print(f"predictions for {counted(len(predicted), 'sequence')}: {path}", flush=True)
        if scores:
            scores["score"] = sum(scores.values()) / len(scores)
            if world.is_first:
                said = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in scores.items())
                print(f"{benchmark.folder}: {said}", flush=True)
        return result | scores

    def flops(self, work: Work) -> float:
        return classification_flops(self.settings.model, work, self.benchmark.n_outputs)

    @property
    def n_read(self) -> int:
        """[CLS]."""
        return 1

    @property
    def stage_name(self) -> str:
        return f"GLUE {self.benchmark.folder}"

    def scores_in_words(self, scores: Mapping[str, float]) -> dict[str, str]:
        names = [prefix + metric for prefix in self.scored for metric in self.benchmark.metrics]
        names += ["score"] if len(names) > 1 else []
        found = {name.replace("_", " "): f"{scores[name]:.4f}" for name in names if name in scores}
        return found | inference_in_words(scores)

    @property
    def guessing_loss(self) -> float:
        """The logarithm of the number of classes; of scores, their squares' mean, as an untrained model says 0."""
        labels = self.benchmark.labels
        return math.log(len(labels)) if labels else float(np.mean(np.square(self.dataset.labels)))
