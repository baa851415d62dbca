"""In the image's build: the trained parameters of NLTK's sentence splitter, punkt_tab, into the Python environment.

NLTK looks for its data in the environment's own folder too, so no variable is needed. The file is known by its hash:
the text that is prepared depends on it, and what lies at the address may change.
"""

import hashlib
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import requests

URL = "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/tokenizers/punkt_tab.zip"
SHA256 = "e57f64187974277726a3417ca6f181ec5403676c717672eef6a748a7b20e0106"
WITHOUT = "Preparing text works without it, a little worse: build_image.sh builds so when started with WITH_PUNKT=0."


def main() -> None:
    """Download, check, unpack, and load."""
    try:
        answer = requests.get(URL, timeout=60)
        answer.raise_for_status()
    except requests.RequestException as error:
        sys.exit(f"error: punkt_tab could not be downloaded from {URL} ({error}). {WITHOUT}")
    digest = hashlib.sha256(answer.content).hexdigest()
    if digest != SHA256:
        sys.exit(f"error: {URL} has the SHA-256 {digest}, and {SHA256} was expected. {WITHOUT}")
    folder = Path(sys.prefix, "nltk_data", "tokenizers")
    folder.mkdir(parents=True)
    zipfile.ZipFile(BytesIO(answer.content)).extractall(folder)

    from nltk.tokenize.punkt import PunktTokenizer

    PunktTokenizer("english")


if __name__ == "__main__":
    main()
