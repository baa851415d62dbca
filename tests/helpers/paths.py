"""Where things are, for tests at any depth."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# On the PYTHONPATH, it hides scikit-learn and scipy, which users lack and nltk would load for a second and more.
AS_USERS = ROOT / "tests" / "helpers" / "as_users"
