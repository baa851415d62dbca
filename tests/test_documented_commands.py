"""Commands of the documents that need neither data nor a GPU end well, started as they stand there.

Those that need data have tests of their own, on small data: the quickstart in tests/scripts/test_quickstart.py, the
preparation, pre-training and SQuAD in tests/docker/, time to quality, MLPerf's data and the check of the environment in
tests/scripts/ and tests/data/, and records in tests/test_records.py.
"""

import subprocess

import pytest
from mlperf_checkers import is_compliant
from paths import ROOT
from script_runs import copy_tree, environment

PAGES = {
    "docs/benchmarking.md": (
        'BERT_MODEL=tiny PHASES=1 BATCH_SIZES="4 8" REPEATS=2 RESULTS_DIR=results/cpu '
        "bash scripts/measure_throughput_pretrain.sh 2 6",
        "python3 benchmark/report.py results/cpu",
    ),
    "docs/distributed.md": (
        "python3 benchmark/scaling_model.py",
        "python3 benchmark/scaling_model.py --num_gpus 1024 --loader_rate 1e9",
    ),
    "docs/mlperf.md": (
        "python3 benchmark/made_mlperf.py results/stand_ins --n_documents 20",
        "STAND_INS=1 PARTS=2 MLPERF_FILES=results/stand_ins BERT_PREP_WORKING_DIR=results bash data/mlperf_bert.sh",
        "DATA_DIR=results/mlperf_bert DIVISION=open SEED=1 GLOBAL_BATCH=16 LEARNING_RATE=3e-2 STEPS=16 "
        "SAMPLES_PER_EVALUATION=128 TARGET=0.005 OUTPUT_DIR=results/mlperf_trial bash scripts/run_mlperf_bert.sh",
    ),
    "docs/squad.md": ("python3 benchmark/made_squad.py made.json --n_questions 60",),
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkout")
    copy_tree(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_end_well(page, checkout):
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n  ", "")
    for command in PAGES[page]:
        assert command in text
        ended = subprocess.run(
            command, shell=True, cwd=checkout, env=environment(), capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}"
    if page == "docs/mlperf.md":
        assert is_compliant(checkout / "results" / "mlperf_trial" / "result_0.txt")
        assert "Unverified by MLCommons." in ended.stdout
