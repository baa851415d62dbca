"""The data of check_environment.py: what the preparation left, and whether it is what its manifests say."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.errors import Problem, Problems, UserError
from common.packages import project_command
from common.words import counted
from common.workers import usable_cores, workers
from data.artifacts.layout import SQUAD, WEIGHTS
from data.artifacts.manifest import FILE_NAME, JOURNAL_NAME
from data.corpus.sentences import splitter_name
from data.loading.lddl.files import check_names, lddl_files, read_footers
from data.loading.prepared import prepared_shards, read_manifest, vocabulary_problem
from data.verify.shards import verify
from tokenization import load_vocab
from training.environment.machine_checks import OK, ON_THE_HOST, PROBLEM, WARNING, Finding

MAX_LENGTH = 512  # of the published phases
PHASES = (("phase 1", "_seq_len_128_"), ("phase 2", "_seq_len_512_"))


def data_findings(folder: Path, vocab_file: Path | None, in_full: bool) -> Iterator[Finding]:
    """Shards, SQuAD, vocabulary and sentence splitter.

    Args:
        folder: the preparation's, or one of shards.
        in_full: read all shards instead of only their sizes.
    """
    if not folder.is_dir():
        yield Finding("shards", f"there is no folder {folder}", PROBLEM, "Give --data_dir the folder with the data.")
        return
    is_shards = any((folder / name).exists() for name in (FILE_NAME, JOURNAL_NAME)) or any(folder.glob("*.hdf5"))
    is_shards = is_shards or bool(lddl_files(folder))
    prepared = [folder] if is_shards else sorted(path for path in folder.glob("hdf5_*/*") if path.is_dir())
    vocabulary = vocabulary_finding(folder, vocab_file)
    for path in prepared:
        yield shards_finding(path, folder, vocab_file if vocabulary.state == OK else None, in_full)
    for phase, lengths in PHASES if not is_shards else ():
        if not any(lengths in path.parent.name for path in prepared):
            found = f"no shards of {phase} under {folder}"
            remedy = f"Give --data_dir another, or make them, of Wikipedia: {_prepare(folder)}"
            yield Finding(
                f"shards, {phase}",
                found,
                WARNING,
                f"Give --data_dir another, or make them, of Wikipedia: {_prepare(folder)}",
            )
    squad = folder / "download" / SQUAD
    if n_files := len(list(squad.glob("*/*.json"))):
        yield Finding("SQuAD", f"{counted(n_files, 'file')} in {squad}")
    else:
        remedy = "Only fine-tuning needs it. Set TRAIN_FILE and PREDICT_FILE to your own, or download it: "
        yield Finding("SQuAD", f"not in {squad}", WARNING, remedy + _download(folder, SQUAD))
    yield vocabulary
    trained = "(trained)" in splitter_name()
    how = f"{sys.executable} -m nltk.downloader punkt_tab; {ON_THE_HOST}: WITH_PUNKT=1 "
    how += project_command("bash", "build_image.sh")
    remedy = f"Sentences are cut a little worse where text is prepared: {how}"
    yield Finding("sentence splitter", splitter_name(), OK if trained else WARNING, "" if trained else remedy)


def shards_finding(path: Path, folder: Path, vocab_file: Path | None, in_full: bool) -> Finding:
    """One folder of shards, whose name is given relative to `folder`."""
    name = next((f"shards, {phase}" for phase, lengths in PHASES if lengths in path.parent.name), "shards")
    where = str(path.relative_to(folder)) if path != folder else str(path)
    if files := lddl_files(path):
        return _lddl_finding(name, where, files, vocab_file, in_full)
    problems = Problems()
    files = prepared_shards(path, "training", problems)
    with problems.collect():
        manifest = read_manifest(path)
        if vocab_file is not None:
            problems.extend([vocabulary_problem(path, str(vocab_file), len(load_vocab(vocab_file)))])
        if in_full and not problems.found:
            with workers(usable_cores()) as pool:
                problems.extend([verify(path, pool, vocab_file=vocab_file).failure()])
    if problems.found:
        return finding_of(name, PROBLEM, problems.found, f"{where}: ")
    rows = f", {counted(manifest.total('rows'), 'row')} in all" if manifest and manifest.total("rows") else ""
    proof = "verified" if in_full else "sizes as in the manifest" if manifest else "no manifest to hold them against"
    return Finding(name, f"{where}: {counted(len(files), 'training file')}{rows}; {proof}")


def _lddl_finding(name: str, where: str, files: Sequence[Path], vocab_file: Path | None, in_full: bool) -> Finding:
    problems, n_rows = Problems(), 0
    with problems.collect():
        check_names(files, problems)
        n_rows = sum(sum(footer.n_rows) for footer in read_footers(files, MAX_LENGTH, problems))
        if in_full and not problems.found:
            with workers(usable_cores()) as pool:
                problems.extend([verify(files[0].parent, pool, vocab_file=vocab_file).failure()])
    if problems.found:
        return finding_of(name, PROBLEM, problems.found, f"{where}: ")
    proof = "verified" if in_full else "columns and types as LDDL writes them"
    return Finding(name, f"{where}: {counted(len(files), 'Parquet file')}, {counted(n_rows, 'row')} in all; {proof}")


def vocabulary_finding(folder: Path, vocab_file: Path | None) -> Finding:
    """The vocabulary that was given, or else the first that the preparation downloaded."""
    weights = folder / "download" / WEIGHTS
    path = vocab_file or next(iter(sorted(weights.glob("*/vocab.txt"))), None)
    if path is None:
        download = _download(folder, WEIGHTS, "--models", "bert_large_uncased")
        remedy = f"Give --vocab_file one, or download one: {download}"
        return Finding("vocabulary", f"none in {weights}; pre-training on shards needs none", WARNING, remedy)
    try:
        return Finding("vocabulary", f"{path}: {len(load_vocab(path)):,} tokens")
    except UserError as error:
        return finding_of("vocabulary", PROBLEM if vocab_file else WARNING, error.problems)


def _prepare(folder: Path) -> str:
    return f"{_into(folder)}CORPUS=wikicorpus_en {project_command('bash', 'data/create_datasets_from_start.sh')}"


def _download(folder: Path, dataset: str, *more: str) -> str:
    call = ("--action", "download", "--dataset", dataset, *more)
    return _into(folder) + project_command("python3", "data/bertPrep.py", *call)


def _into(folder: Path) -> str:
    return f"BERT_PREP_WORKING_DIR={shlex.quote(str(folder.absolute()))} "


def finding_of(check: str, state: str, problems: Sequence[Problem], where: str = "") -> Finding:
    """Several problems as one finding."""
    remedies = dict.fromkeys(problem.remedy for problem in problems if problem.remedy)
    return Finding(check, where + "; ".join(problem.problem for problem in problems), state, "; ".join(remedies))
