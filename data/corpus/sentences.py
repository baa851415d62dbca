"""Documents to sentences, with NLTK's Punkt.

Trained parameters (NLTK's `punkt_tab`) are used where they are installed. Without them Punkt works from its rules and
the abbreviations below, and cuts a little more often after others. The sharding stage records which it was.
"""

import functools

from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer, PunktTokenizer

# Common in English prose and in Wikipedia; without their last full stop, in lower case, as Punkt keeps them.
ABBREVIATIONS = """
    a.d a.k.a a.m adm al approx apr assn asst aug ave b.a b.c b.c.e b.sc bros c ca capt cf chap co col comdr corp cpl
    d.c d.phil dec dept dr e.g ed eds eng esp est et etc ext feb ff fig figs fl fr ft gen gov govt hon hr i.e inc
    jan jr lat lb ln lt ltd m.a m.d m.sc maj mar mass messrs mme mr mrs ms mt mts no nos nov oct op oz p p.m p.s par
    ph.d pl pp pres prof pseud pt pvt r repr rev rt sec sen sept sgt sp spp sq sr st ste supt u.k u.n u.s u.s.a univ
    v var viz vol vols vs yd yr
"""


def split_sentences(document: str) -> list[str]:
    """The sentences of a document, stripped; none is empty."""
    return [sentence for piece in _punkt().tokenize(document) if (sentence := piece.strip())]


def splitter_name() -> str:
    """Which sentence splitter this installation has."""
    trained = isinstance(_punkt(), PunktTokenizer)
    return "nltk punkt_tab (trained)" if trained else "nltk Punkt (untrained, with a list of abbreviations)"


@functools.cache
def _punkt() -> PunktSentenceTokenizer:
    try:
        return PunktTokenizer("english")
    except LookupError:
        parameters = PunktParameters()
        parameters.abbrev_types = set(ABBREVIATIONS.split())
        return PunktSentenceTokenizer(parameters)
