"""MLCommons' own checkers of logs (package mlperf-logging), called in process."""

import json

from mlperf_logging.compliance_checker import mlp_compliance
from mlperf_logging.rcp_checker import rcp_checker

RULESET = "5.0.0"  # the last that knows BERT


def is_compliant(path):
    """What `python -m mlperf_logging.compliance_checker --usage training --ruleset 5.0.0 --werror PATH` decides."""
    checker = mlp_compliance.make_checker("training", RULESET, quiet=False, werror=True)
    valid, *_ = mlp_compliance.main(str(path), f"training_{RULESET}/common.yaml", checker)
    return valid


def passes_convergence(folder):
    """What `python -m mlperf_logging.rcp_checker --rcp_version 5.0.0 FOLDER` decides of its result_*.txt, and why."""
    passed, why, _ = rcp_checker.check_directory(str(folder), "training", RULESET, False, False, rcp_pass="pruned_rcps")
    return passed, why


def lines(path):
    """The events of a log, in order."""
    return [json.loads(line.split(":::MLLOG ", 1)[1]) for line in path.read_text("utf-8").splitlines()]
