"""scripts/hardware.txt: its lines set what the scripts know, come to the published recipes, and fit the cards."""

import pytest
from paths import ROOT
from script_runs import python_that_only, run, settings_of, shown_settings

from modeling import BertForPreTraining
from models.config import BERT_CONFIGS, BertConfig
from models.memory import HEADROOM, MemoryEstimate
from tasks.execution import count_parameters
from training.config.precision import PRECISIONS

SCRIPTS = {"pretrain": "scripts/run_pretraining.sh", "squad": "scripts/run_squad.sh", "glue": "scripts/run_glue.sh"}
MEMORY = {"h200": 150e9, "h100": 85e9, "a100": 85e9, "v100": 34e9}  # bytes that the driver shows
NAMES = [f"{card}_{n}gpu" for card in MEMORY for n in (1, 8)] + ["cpu"]
TABLE = [
    line.split()
    for line in (ROOT / "scripts" / "hardware.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def test_every_card_has_one_for_one_and_for_eight():
    assert [row[:2] for row in TABLE] == [[name, task] for task in SCRIPTS for name in NAMES]


@pytest.mark.parametrize("row", TABLE, ids="-".join)
def test_rows_only_set_what_the_script_knows(row):
    _, task, *settings = row
    known = settings_of(SCRIPTS[task]) | settings_of("scripts/launch.sh")
    assert {setting.partition("=")[0] for setting in settings} <= known


HARDWARE = {
    "NUM_GPUS",
    "PRECISION",
    "COMPILE",
    "PREDICT_BATCH",
    "EVAL_BATCH",
    "MICRO_BATCH",
    "PHASE1_MICRO_BATCH",
    "PHASE2_MICRO_BATCH",
}


@pytest.mark.parametrize("row", TABLE, ids="-".join)
def test_rows_set_neither_model_nor_data_nor_recipe(row):
    assert {setting.partition("=")[0] for setting in row[2:]} <= HARDWARE


@pytest.fixture(scope="module")
def configured(tmp_path_factory):
    """What --help says with each CONFIG."""
    folder = tmp_path_factory.mktemp("folder")
    return {(name, task): shown_settings(SCRIPTS[task], folder, CONFIG=name) for name, task, *_ in TABLE}


@pytest.mark.parametrize("name", NAMES)
def test_pretraining_adds_up(name, configured):
    values = configured[name, "pretrain"]
    n_gpus = int(values["NUM_GPUS"])
    assert values["PRECISION"] in PRECISIONS
    for phase in (1, 2):
        micro = int(values[f"PHASE{phase}_MICRO_BATCH"] or 1)
        assert int(values[f"PHASE{phase}_GLOBAL_BATCH"]) % (n_gpus * micro) == 0
    assert name == "cpu" or name.endswith(f"_{n_gpus}gpu")
    assert values["BERT_MODEL"] == "large"
    published = {1: (65536, 7038, 6e-3, 2000), 2: (32768, 1563, 4e-3, 200)}
    for phase, (batch, steps, rate, warmup) in published.items():
        assert [int(values[f"PHASE{phase}_{what}"]) for what in ("GLOBAL_BATCH", "STEPS")] == [batch, steps]
        assert float(values[f"PHASE{phase}_LEARNING_RATE"]) == rate
        assert float(values[f"PHASE{phase}_WARMUP"]) * steps == pytest.approx(warmup, abs=1)


@pytest.mark.parametrize("name", NAMES[:-1])
def test_micro_batches_fit_the_card(name, configured):
    values = configured[name, "pretrain"]
    config = BertConfig.from_json_file(BERT_CONFIGS["large"])
    card = name.split("_")[0]
    for phase, length in ((1, 128), (2, 512)):
        n_parameters = count_parameters(BertForPreTraining, config)
        estimate = MemoryEstimate(config, n_parameters, 2, padded_attention=card == "v100")
        n_bytes = estimate.n_bytes(int(values[f"PHASE{phase}_MICRO_BATCH"]) * length)
        assert 0.3 * MEMORY[card] < HEADROOM * n_bytes < MEMORY[card]


@pytest.mark.parametrize("name", NAMES)
def test_fine_tuning_adds_up(name, configured):
    values = configured[name, "squad"]
    n_gpus, batch, micro = (int(values[key]) for key in ("NUM_GPUS", "GLOBAL_BATCH", "MICRO_BATCH"))
    assert batch % (n_gpus * micro) == 0
    assert values["PRECISION"] in PRECISIONS
    # Google's recipe: 2 epochs of batches of 32 at 3e-5, warmed up over a tenth.
    recipe = [float(values[key]) for key in ("GLOBAL_BATCH", "EPOCHS", "LEARNING_RATE", "WARMUP")]
    assert recipe == [32, 2, 3e-5, 0.1]
    assert name == "cpu" or name.endswith(f"_{n_gpus}gpu")


def test_the_environment_counts_more_than_a_configuration(tmp_path):
    values = shown_settings(SCRIPTS["pretrain"], tmp_path, CONFIG="a100_8gpu", NUM_GPUS=4, PHASE2_STEPS=7)
    assert (values["NUM_GPUS"], values["PHASE2_STEPS"], values["PHASE1_MICRO_BATCH"]) == ("4", "7", "256")


def test_a_configuration_of_ones_own_is_given_by_its_path(tmp_path):
    own = tmp_path / "own.sh"
    own.write_text("PHASE1_STEPS=${PHASE1_STEPS:-11}\n", encoding="utf-8")
    assert shown_settings(SCRIPTS["pretrain"], tmp_path, CONFIG=own)["PHASE1_STEPS"] == "11"


@pytest.mark.parametrize("unknown", ["no_such_card", "no/such.sh"])
def test_an_unknown_name_is_refused_with_those_there_are(tmp_path, unknown):
    ended = run(SCRIPTS["pretrain"], cwd=tmp_path, CONFIG=unknown)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert f"CONFIG is '{unknown}'" in line
    assert all(f" {name}" in line for name in NAMES)


def test_batches_that_do_not_divide_among_the_gpus_are_refused(tmp_path):
    variables = python_that_only(tmp_path) | {"CONFIG": "h200_8gpu", "NUM_GPUS": 3}
    ended = run(SCRIPTS["pretrain"], cwd=tmp_path, **variables)
    assert ended.returncode == 2
    assert "PHASE1_GLOBAL_BATCH 65536 is not a multiple of 1536 (processes: 3, PHASE1_MICRO_BATCH: 512)" in ended.stderr
