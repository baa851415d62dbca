"""Documents to sentences, with NLTK's Punkt; and what counts as a word, in scripts with and without spaces.

Trained parameters (NLTK's `punkt_tab`) are used where they are installed. Without them Punkt works from its rules and
the abbreviations below, and cuts a little more often after others. The sharding stage records which it was.

Punkt knows the ASCII marks that a space follows. The marks of other scripts are those that Unicode lists (the property
Sentence_Break, in the `regex` library), whatever follows them. Thai and its like have none: there, a text that runs on
is cut by length, where it has a space if possible.
"""

import functools
import itertools
from typing import TYPE_CHECKING

import regex

if TYPE_CHECKING:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

# Common in English prose and in Wikipedia; without their last full stop, in lower case, as Punkt keeps them.
ABBREVIATIONS = """
    a.d a.k.a a.m adm al approx apr assn asst aug ave b.a b.c b.c.e b.sc bros c ca capt cf chap co col comdr corp cpl
    d.c d.phil dec dept dr e.g ed eds eng esp est et etc ext feb ff fig figs fl fr ft gen gov govt hon hr i.e inc
    jan jr lat lb ln lt ltd m.a m.d m.sc maj mar mass messrs mme mr mrs ms mt mts no nos nov oct op oz p p.m p.s par
    ph.d pl pp pres prof pseud pt pvt r repr rev rt sec sen sept sgt sp spp sq sr st ste supt u.k u.n u.s u.s.a univ
    v var viz vol vols vs yd yr
"""


# Scripts whose words have no spaces between them: ideographs with kana, and those that Unicode calls complex.
_IDEOGRAPHS = r"[[\p{Line_Break=ID}\p{Line_Break=CJ}]&&\p{L}]"
_COMPLEX = r"[\p{Line_Break=SA}\p{Line_Break=AK}\p{Line_Break=AS}\p{Script=Tibetan}]"
_UNSPACED = rf"[{_IDEOGRAPHS}{_COMPLEX}]"
LETTERS_PER_IDEOGRAPHIC_WORD, LETTERS_PER_COMPLEX_WORD = 2, 5
# A full stop before a digit is a decimal point. "Yahoo!" is a name in Chinese text too, so that ASCII marks need
# letters of such a script on both sides.
_MARK = rf"[\p{{SB=STerm}}--[!?]]|[\p{{SB=ATerm}}--[.]](?!\p{{Nd}})|(?<={_UNSPACED})[!?]++(?={_UNSPACED})"
_END = rf"(?:{_MARK})[\p{{SB=STerm}}\p{{SB=ATerm}}\p{{Pe}}\p{{Pf}}\"']*+"
RUNS_ON = 256  # characters without a mark that ends a sentence, in a script of complex letters
MAX_PIECE = 50  # characters of what is cut from it: of such scripts, many vocabularies know little but letters
# As many characters as there are up to a space, else up to a letter: not before its vowel signs.
_PIECE = rf"(?s).{{1,{MAX_PIECE}}}(?:(?<=\s)|\Z)|.{{1,{MAX_PIECE}}}(?!\p{{M}})|.{{1,{MAX_PIECE}}}"


def count_words(text: str) -> int:
    """The number of words: what spaces separate or, where most letters are of a script without them, an estimate."""
    n_words = len(text.split())
    if text.isascii():
        return n_words
    ideographs, complex_letters = (len(_compiled(letters).findall(text)) for letters in (_IDEOGRAPHS, _COMPLEX))
    if 2 * (ideographs + complex_letters) < sum(map(str.isalpha, text)):
        return n_words
    return max(n_words, ideographs // LETTERS_PER_IDEOGRAPHIC_WORD + complex_letters // LETTERS_PER_COMPLEX_WORD)


def split_sentences(document: str) -> list[str]:
    """The sentences of a document, stripped; none is empty."""
    sentences = []
    for part in [document] if document.isascii() else _split_at_marks(document):
        for sentence in _punkt().tokenize(part):
            sentences += [sentence] if sentence.isascii() else _cut_what_runs_on(sentence)
    return [stripped for sentence in sentences if (stripped := sentence.strip())]


def _split_at_marks(document: str) -> list[str]:
    """What ends at the marks of other scripts."""
    ends = [match.end() for match in _compiled(_END).finditer(document)]
    return [document[start:end] for start, end in itertools.pairwise([0, *ends, len(document)])]


def _cut_what_runs_on(sentence: str) -> list[str]:
    if len(sentence) <= RUNS_ON or 2 * len(_compiled(_COMPLEX).findall(sentence)) <= len(sentence):
        return [sentence]
    return _compiled(_PIECE).findall(sentence)


@functools.cache
def _compiled(pattern: str) -> regex.Pattern:
    return regex.compile(pattern, regex.VERSION1)


def splitter_name() -> str:
    """Which sentence splitter this installation has."""
    from nltk.tokenize.punkt import PunktTokenizer

    trained = isinstance(_punkt(), PunktTokenizer)
    return "nltk punkt_tab (trained)" if trained else "nltk Punkt (untrained, with a list of abbreviations)"


@functools.cache
def _punkt() -> "PunktSentenceTokenizer":
    # Here, as it loads scikit-learn and scipy where they are installed: 2 s, of which other stages have no use.
    from nltk import redos
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer, PunktTokenizer

    redos.DEFAULT_TIMEOUT = None  # the library's 5 s are for a whole document, however long it is and busy the machine
    try:
        return PunktTokenizer("english")
    except LookupError:
        parameters = PunktParameters()
        parameters.abbrev_types = set(ABBREVIATIONS.split())
        return PunktSentenceTokenizer(parameters)
