"""SQuAD's official scoring script, run beside our own scores so that both can be seen."""

import json
import os
import subprocess
import sys
from pathlib import Path

from common.errors import UserError


def run_official_script(
    script: Path, data_file: Path, predictions_file: Path, null_odds_file: Path | None = None
) -> dict[str, float]:
    """What evaluate-v1.1.py or evaluate-v2.0.py prints for these predictions.

    Args:
        null_odds_file: for v2.0's script, which searches thresholds with it. Since `predictions_file` says "" where a
            threshold decided so, what that script calls best is the best of the thresholds up to that one.

    Raises:
        UserError: the script is missing, fails, or does not print a JSON object.
    """
    if not script.is_file():
        raise UserError(f"there is no script {script}", "give --eval_script the path of evaluate-v1.1.py or -v2.0.py")
    command = [sys.executable, str(script), str(data_file), str(predictions_file)]
    if null_odds_file is not None:
        # The predictions are scored as they are: by itself the script takes the odds for probabilities, and empties
        # answers with odds above 1.
        command += ["--na-prob-file", str(null_odds_file), "--na-prob-thresh", "inf"]
    utf8 = {**os.environ, "PYTHONUTF8": "1"}  # the script opens the data in the locale's encoding
    finished = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", env=utf8
    )
    if finished.returncode:
        said = finished.stderr.strip().splitlines() or ["it said nothing"]
        raise UserError(
            f"--eval_script {script} failed on {predictions_file} with status {finished.returncode} ({said[-1]})",
            "check that it is of the data's version",
        )
    # v1.1's prints one line; v2.0's an object over several, and perhaps words before it.
    start = finished.stdout.find("{")
    try:
        scores = json.loads(finished.stdout[start:]) if start >= 0 else None
    except ValueError:
        scores = None
    if not isinstance(scores, dict):
        raise UserError(
            f"--eval_script {script} printed no scores as JSON but {finished.stdout.strip()[:80]!r}",
            "give the official script",
        )
    return scores
