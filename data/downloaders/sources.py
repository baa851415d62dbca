"""Where the data is published."""

WIKI_MIRROR = "https://dumps.wikimedia.org"
SQUAD_MIRROR = "https://rajpurkar.github.io/SQuAD-explorer/dataset"
SQUAD_VERSIONS = ("v1.1", "v2.0")
WEIGHTS_MIRROR = "https://storage.googleapis.com/bert_models"
