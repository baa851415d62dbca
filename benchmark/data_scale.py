#!/usr/bin/env python3
"""What a second process brings, and the memory of every process, on a corpus made for the purpose.

Stages are extraction from an uncompressed dump with 450 templates for every MB of text (2 GB have as many as English
Wikipedia, 900,000), sharding, HDF5 creation of both lengths, and formatting of text in files of five kinds. Each is
run with one process and with --n_processes, in turns, and the least times are compared. Memory is the largest resident
size that any process of the stage reached, main process and workers apart; 1 GiB is the bound, whatever the size of the
corpus. The kinds of files are also compared by the documents that are formatted in a second, in units of plain lines.

  python3 benchmark/data_scale.py --vocab_file VOCAB --scale_mb 40 --repeats 3
  python3 benchmark/data_scale.py --vocab_file VOCAB --scale_mb 2000 --memory_only
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from benchmark.command_line import count_problems, parser_of
from benchmark.tables import markdown_table
from benchmark.timing import in_fresh_process, in_turns
from benchmark.workloads.made_corpus import KINDS, write_dump, write_formatted, write_kinds
from benchmark.workloads.shards import make_shards
from common.errors import run_main
from common.words import counted
from common.workers import Workers, workers
from data.corpus.documents import LINES, FormatOptions
from data.corpus.extraction import extract_wikipedia
from data.corpus.formatting import write_documents
from data.corpus.sentences import splitter_name
from data.corpus.sharding import ShardingPlan, first_of_their_kind, survey, write_shards
from data.sources.text import Source

MB_PER_SHARD = 50
FILES_OF_A_KIND = 8
Runs = Mapping[tuple[str, int], Sequence[tuple[float, float, float]]]  # what run_stage gives, by stage and processes
TEMPLATES_PER_MB = 450


def extraction(folder: Path, n_shards: int, vocab_file: str, pool: Workers) -> None:
    """Dump to articles."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        extract_wikipedia(folder / "dump.xml", Path(scratch), pool)


def formatting(kind: str, folder: Path, n_shards: int, vocab_file: str, pool: Workers) -> None:
    """The stage, without its manifest, of files of a kind."""
    texts = folder / "kinds", sorted((folder / "kinds" / kind).iterdir())
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        write_documents(Source(), texts, Path(scratch) / "formatted", pool, FormatOptions(text_documents=LINES))


def sharding(folder: Path, n_shards: int, vocab_file: str, pool: Workers) -> None:
    """The stage, without its manifest."""
    corpus = folder / "corpus.txt"
    names = [f"made_training_{i}" for i in range(n_shards)]
    splitter_name()  # loads nltk before workers are forked, as the stage does
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        _, hashes = survey(corpus)
        (taken,) = first_of_their_kind([hashes])
        write_shards({corpus: taken}, Path(scratch), ShardingPlan(names, [], 0.0), pool)
        for path in Path(scratch).iterdir():
            path.replace(folder / "shards" / path.name)


def hdf5(folder: Path, n_shards: int, vocab_file: str, pool: Workers) -> None:
    """The stage, without its manifest, for both lengths."""
    shards = sorted((folder / "shards").iterdir())
    for files in pool.map(partial(make_shards, folder=folder, vocab_file=vocab_file), shards, "HDF5", str):
        for path in files:
            path.unlink()


STAGES = MappingProxyType(
    {
        "extraction": extraction,
        "txt": partial(formatting, "txt"),
        "parquet": partial(formatting, "parquet"),
        "jsonl": partial(formatting, "jsonl"),
        "jsonl.gz": partial(formatting, "jsonl.gz"),
        "jsonl.zst": partial(formatting, "jsonl.zst"),
        "sharding": sharding,
        "hdf5": hdf5,
    }
)


def run_stage(stage: str, n_processes: int, folder: Path, n_shards: int, vocab_file: str) -> tuple[float, float, float]:
    """Seconds, and the peak resident MiB of this process, which has done nothing before, and of its largest worker."""
    start = time.perf_counter()
    with workers(n_processes) as pool:
        STAGES[stage](folder, n_shards, vocab_file, pool)
    seconds = time.perf_counter() - start
    # getrusage would also count what the process that started this one had taken.
    peak = Path("/proc/self/status").read_text(encoding="ascii").split("VmHWM:")[1].split()[0]
    return seconds, int(peak) / 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--vocab_file", required=True, help="of WordPiece, a token per line")
    parser.add_argument("--scale_mb", type=float, default=20, help="MB of text")
    parser.add_argument("--n_processes", type=int, default=2, help="to compare with one process")
    parser.add_argument("--memory_only", action="store_true", help="leave the runs with one process out")
    parser.add_argument("--n_shards", type=int, help=f"if not one for {MB_PER_SHARD} MB, and 8 at least")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each, in turns")
    parser.add_argument("--folder", type=Path, help="where the corpus and its shards go, if not in a temporary folder")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="to run")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    args = parse_arguments()
    count_problems(args, "n_processes", "repeats").raise_if_any()
    n_shards, n_bytes = args.n_shards or max(8, round(args.scale_mb / MB_PER_SHARD)), int(args.scale_mb * 1e6)
    shards = counted(n_shards, "shard")
    print(f"{args.scale_mb} MB of text, {shards}; the least seconds and the most MiB of {args.repeats}")
    n_processes = [args.n_processes] if args.memory_only else [1, args.n_processes]
    kinds = [kind for kind in KINDS if kind in args.stages]
    groups = [[stage] for stage in args.stages if stage not in KINDS] + ([kinds] if kinds else [])
    runs: Runs = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        if "extraction" in args.stages:
            write_dump(folder / "dump.xml", n_bytes, int(args.scale_mb * TEMPLATES_PER_MB))
        write_formatted(folder / "corpus.txt", n_bytes)
        n_documents = write_kinds(folder / "kinds", n_bytes, FILES_OF_A_KIND) if kinds else 0
        (folder / "shards").mkdir()
        for stages in groups:
            measurements = {
                (stage, n): partial(in_fresh_process, run_stage, stage, n, folder, n_shards, args.vocab_file)
                for stage in stages
                for n in n_processes
            }
            runs |= in_turns(measurements, args.repeats)
            for stage in stages:  # a stage of a large corpus may take hours, and the next fail
                print(*row_of(stage, runs, n_processes), file=sys.stderr, flush=True)
    header = "stage", f"s, {args.n_processes} processes", "s, 1 process", "ratio", "main MiB", "worker MiB"
    print(markdown_table(header, [row_of(stage, runs, n_processes) for stages in groups for stage in stages]))
    if kinds:
        print(f"\n{documents_per_second(kinds, n_documents, runs, n_processes[0])}")


def documents_per_second(kinds: Sequence[str], n_documents: int, runs: Runs, n_processes: int) -> str:
    """A table of the kinds of files, in units of the first too."""
    seconds = [min(seconds for seconds, *_ in runs[kind, n_processes]) for kind in kinds]
    rows = [
        [kind, f"{n_documents / each:,.0f}", f"{seconds[0] / each:.2f}"]
        for kind, each in zip(kinds, seconds, strict=True)
    ]
    return markdown_table((f"documents, {n_processes} processes", "a second", f"of {kinds[0]}"), rows)


def row_of(stage: str, runs: Runs, n_processes: Sequence[int]) -> list[str]:
    """The cells of a stage: seconds, their ratio if there are two, and the most memory."""
    least = [min(seconds for seconds, *_ in runs[stage, n]) for n in n_processes]
    # With one process, the main one does the work of the workers, so it is the larger of its kind.
    _, *most_mib = map(max, zip(*(run for n in n_processes for run in runs[stage, n]), strict=True))
    ratio = [f"{least[0]:.2f}", f"{least[0] / least[-1]:.2f}"] if len(least) > 1 else ["-", "-"]
    return [stage, f"{least[-1]:.2f}", *ratio, *(f"{mib:.0f}" for mib in most_mib)]


if __name__ == "__main__":
    run_main(main)
