"""Where in the text each WordPiece token comes from, so that an answer is a slice of its context and never re-guessed.

BERT's tokenizer throws the places away: it deletes characters, lower-cases (İ becomes two characters), decomposes and
strips accents. google-research/bert's run_squad therefore searches the answer's text again by aligning two
tokenizations, and sometimes fails.

Here two properties of the algorithm keep them. Words between whitespace are tokenized by themselves, so a word is
worked out once. And a character of a word turns into so many characters whatever stands around it (a final sigma is
another letter, but one letter still), so counting is enough to align them. Unicode's canonical ordering may swap
combining marks; places stay in the order of the text and so never decrease.
"""

import re
import unicodedata
from typing import NamedTuple

import numpy as np

from tokenization import MAX_CACHED_WORDS, UNK, BertTokenizer

# Words as `tokenization.split_words` makes them: the control characters that BERT deletes end none.
_WORD = re.compile(r"[\S\x0b\x0c\x1c-\x1f\x85]+")


class TokenOffsets(NamedTuple):
    """The n tokens of a text."""

    ids: np.ndarray  # (n,) int32
    starts: np.ndarray  # (n,) int32: the first character of the text that is in the token; never decreases
    ends: np.ndarray  # (n,) int32: the one after the last; never decreases


class OffsetTokenizer:
    """Gives the tokens of `tokenizer.tokenize`, with their places.

    A token's slice of the text holds all characters that it was made of, what was deleted between them, and the accents
    stripped from its last one. A character that was decomposed (Hangul) may be in several tokens; a deleted
    character at the border of a token is in none; an [UNK] has the whole word that it stands for.
    """

    def __init__(self, tokenizer: BertTokenizer) -> None:
        self.tokenizer = tokenizer
        self._words: dict[str, np.ndarray] = {}

    def encode(self, text: str) -> TokenOffsets:
        """Tokenizes `text`, without adding [CLS] or [SEP]."""
        words, word_starts = [np.zeros((0, 3), dtype=np.int32)], [0]
        for match in _WORD.finditer(text):
            words.append(self._word_tokens(match.group()))
            word_starts.append(match.start())
        shift = np.repeat(np.array(word_starts, dtype=np.int32), list(map(len, words)))
        ids, starts, ends = np.concatenate(words).T
        return TokenOffsets(ids, starts + shift, ends + shift)

    def _word_tokens(self, word: str) -> np.ndarray:
        """(n, 3) int32: of each of a word's tokens the id, and the start and end of what it comes from in the word."""
        if word in self._words:
            return self._words[word]
        ids, _ = self.tokenizer.encode_batch([word])
        pieces = iter(self.tokenizer.convert_ids_to_tokens(ids))
        characters = self._character_places(word)
        places, begin = [], 0
        for basic_token in self.tokenizer.basic_tokenizer.tokenize(word):
            token_begin, token_end = begin, begin + len(basic_token)
            while begin < token_end:
                piece = next(pieces)
                continues = begin > token_begin  # then it is written with ## before it
                end = token_end if piece == UNK else begin + len(piece) - 2 * continues
                places.append((characters[begin][0], characters[end - 1][1]))
                begin = end
        found = [(token, *place) for token, place in zip(ids.tolist(), places, strict=True)]
        tokens = np.array(found, dtype=np.int32).reshape(-1, 3)
        if len(self._words) < MAX_CACHED_WORDS:
            self._words[word] = tokens
        return tokens

    def _character_places(self, word: str) -> list[list[int]]:
        """For each character of the word's basic tokens, start and end in the word of what it comes from."""
        places: list[list[int]] = []
        for place, char in enumerate(word):
            n_characters = sum(map(len, self.tokenizer.basic_tokenizer.tokenize(char)))
            if n_characters:
                places += [[place, place + 1]] * n_characters  # one list, so that all end where the last one does
            elif places and unicodedata.category(char) == "Mn":  # a stripped accent: its letter ends after it
                places[-1][1] = place + 1
        return places
