"""Trains a WordPiece vocabulary on plain text, for corpora and machines that have no published one at hand.

The `tokenizers` library's trainer does the work, on the words of BERT's basic tokenizer. Left alone it numbers the
characters in a random order that decides between merges of equal count. Handing it all characters, in order, as special
tokens makes the result a function of the text alone.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # started as a script, Python looks for imports beside it and not in the project's folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.trainers import WordPieceTrainer
from tqdm import tqdm

from common.command_line import CommandLine
from common.errors import UserError, run_main
from common.json_files import regular
from common.words import counted
from data.corpus.text_files import texts_in
from file_utils import atomic_write
from tokenization import SPECIAL_TOKENS, UNK, BasicTokenizer, split_words

# Rarer characters stay unknown, as they do in BERT's own vocabularies of about a thousand characters.
MAX_CHARACTERS = 1000


def count_words(files: Sequence[Path], do_lower_case: bool) -> Counter[str]:
    """Returns how often each word of BERT's basic tokenizer occurs. Raises UserError for a file that is not text."""
    basic = BasicTokenizer(do_lower_case)
    counts: Counter[str] = Counter()
    for path in tqdm(files, desc="reading", unit="file", disable=None):
        try:
            with open(regular(path), encoding="utf-8", errors="surrogatepass") as lines:  # lone ones are deleted
                raw = Counter(word for line in lines for word in split_words(line))
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text ({error})", "convert it or leave it out") from error
        for text, count in raw.items():
            for word in basic.tokenize(text):
                counts[word] += count
    for token in SPECIAL_TOKENS:
        del counts[token]
    return counts


def train_wordpiece_vocab(counts: Counter[str], vocab_size: int) -> list[str]:
    """Returns at most `vocab_size` tokens in the order of their ids: SPECIAL_TOKENS, characters, then merged pieces.

    Each character is there as it is, and as a continuation ("##a") if it occurs so. Fewer tokens come back when no pair
    of pieces is left that occurs twice. Raises UserError if `vocab_size` does not hold the characters.
    """
    characters: Counter[str] = Counter()
    for word, count in counts.items():
        for char in word:
            characters[char] += count
    kept = set(sorted(characters, key=lambda char: (-characters[char], char))[:MAX_CHARACTERS])
    # A word with any other character would be [UNK] as a whole, so nothing is to be learned from it.
    words = {word: count for word, count in counts.items() if kept.issuperset(word)}
    continuations = {f"##{char}" for word in words for char in word[1:]}
    alphabet = sorted(kept) + sorted(continuations)
    if len(SPECIAL_TOKENS) + len(alphabet) > vocab_size:
        raise UserError(
            f"--vocab_size {vocab_size} is less than the {len(SPECIAL_TOKENS) + len(alphabet)} special tokens and "
            "characters of the text",
            "ask for a larger vocabulary",
        )

    tokenizer = Tokenizer(WordPiece(unk_token=UNK))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    special = [*SPECIAL_TOKENS, *alphabet]
    trainer = WordPieceTrainer(vocab_size=vocab_size, min_frequency=2, special_tokens=special, show_progress=False)
    # The trainer takes text, not counts: each word as often as it was counted, in strings of bounded length.
    text = (f"{word} " * min(1000, count - done) for word, count in words.items() for done in range(0, count, 1000))
    tokenizer.train_from_iterator(text, trainer)
    vocab = tokenizer.get_vocab()
    return sorted(vocab, key=vocab.__getitem__)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__.split("\n", 1)[0])
    parser.add_argument("--input_files", nargs="+", required=True, help="UTF-8 text files, or folders of .txt files")
    parser.add_argument("--vocab_file", required=True, help="the vocab.txt to write, one token per line")
    parser.add_argument("--vocab_size", type=int, default=30522, help="tokens at most (default: %(default)s, BERT's)")
    parser.add_argument(
        "--do_lower_case",
        type=int,
        choices=(0, 1),
        default=1,
        help="1: lower-case and strip accents, 0: keep the case (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a vocabulary."""
    args = parse_arguments(arguments)
    files = []
    for path in map(Path, args.input_files):
        texts, left_out = texts_in(path) if path.is_dir() else ({path.name: path}, "")
        if not texts:
            raise UserError(f"There is no .txt file in {path}{left_out}", "give text to train on")
        print(f"{path}: {counted(len(texts), 'file')}{left_out}")
        files += texts.values()
    counts = count_words(files, bool(args.do_lower_case))
    if not counts:
        raise UserError(f"There is no word in {' '.join(args.input_files)}", "give text to train on")
    vocab = train_wordpiece_vocab(counts, args.vocab_size)
    path = Path(args.vocab_file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.writelines(f"{token}\n" for token in vocab)
    print(f"{len(vocab)} tokens from {counts.total()} words ({len(counts)} distinct) written to {path}")


if __name__ == "__main__":
    run_main(main)
