"""What is kept of a document."""

from hypothesis import given
from hypothesis import strategies as st

from data.corpus.documents import prose


@given(st.lists(st.sampled_from(["a b c", "", " ", "* a b c d", "a b c d", "a\t b\xa0c  d e", "{{ a b c d", "d" * 9])))
def test_prose_is_what_a_plain_formula_says(paragraphs):
    clean = [" ".join(line.split()) for line in paragraphs]
    kept = [each for each in clean if len(each.split()) >= 4 and each[0] not in "*{"]
    all_of_it = " ".join(filter(None, clean))
    found = prose(paragraphs, 4)
    assert found.line == " ".join(kept)
    assert found.n_words == len(found.line.split())
    assert found.n_left_out == len(all_of_it) - len(found.line)
    assert prose(paragraphs, 0) == (all_of_it, len(all_of_it.split()), 0)
