"""A vocabulary over several sites: what is shared stays, what one site alone uses does not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from undersong.shared.statistics import vocabulary
from undersong.shared.statistics.measures import SALT


def total(*sites: list[str], tokens: vocabulary.Tokens = "characters", least: int = 1) -> vocabulary.Floats:
    return np.sum([vocabulary.site_sums(texts, tokens, least) for texts in sites], axis=0)


def test_characters_of_enough_sites_stay_the_most_frequent_first() -> None:
    sums = total(["aaab"], ["aab", "z"], ["c😀"])
    assert [chr(place) for place in vocabulary.vocabulary_of(sums, 10, 2)] == ["a", "b"]
    assert [chr(place) for place in vocabulary.vocabulary_of(sums, 1, 2)] == ["a"]
    assert sorted(map(chr, vocabulary.vocabulary_of(sums, 10, 1))) == ["a", "b", "c", "z"]


def test_a_word_of_one_site_is_not_told_and_no_word_leaves_a_site_as_text() -> None:
    sums = total(["The cat, the dog"], ["the CAT."], ["Rumpelstilzchen the"], tokens="words")
    kept = set(vocabulary.vocabulary_of(sums, 100, 2).tolist())
    assert kept == {vocabulary.place_of_word(word) for word in ("the", "cat")}
    assert vocabulary.words_of("The cat, the dog") == ["the", "cat", ",", "the", "dog"]


def test_a_site_does_not_tell_what_it_uses_too_rarely() -> None:
    often, rare = total(["aab"], ["aab"], least=2), total(["aab"], ["aab"])
    sites = [sums[SALT:].reshape(2, -1)[:, [ord("a"), ord("b")]].tolist() for sums in (often, rare)]
    assert sites == [[[2, 0], [4, 0]], [[2, 2], [4, 2]]]


@settings(max_examples=examples(40), deadline=None)
@given(
    st.lists(st.lists(st.text(max_size=12), max_size=4), min_size=1, max_size=5),
    st.integers(1, 4),
    st.sampled_from(["characters", "words"]),
)
def test_what_is_told_is_what_counting_texts_side_by_side_gives(sites, min_sites, tokens) -> None:
    found = set(vocabulary.vocabulary_of(total(*sites, tokens=tokens), vocabulary.PLACES, min_sites).tolist())
    used = [{place for text in texts for place in vocabulary.places_of(text, tokens).tolist()} for texts in sites]
    wanted = {place for here in used for place in here if sum(place in other for other in used) >= min_sites}
    assert found == wanted - {vocabulary.PLACES}


def test_half_surrogates_are_characters_like_others() -> None:
    assert vocabulary.places_of("a\ud800", "characters").tolist() == [97, 0xD800]
    assert 0 <= vocabulary.place_of_word("\ud800") < vocabulary.PLACES


@pytest.mark.parametrize(
    ("sums", "given_settings", "said"),
    [
        ([1.0, 2.0], {"vocabulary_size": 5, "min_sites": 2}, "2 sums came"),
        ([np.nan] * vocabulary.LENGTH, {"vocabulary_size": 5, "min_sites": 2}, "all of them finite"),
        ([0.0] * vocabulary.LENGTH, {"vocabulary_size": "all", "min_sites": 2}, "vocabulary_size is 'all'"),
        ([0.0] * vocabulary.LENGTH, {"vocabulary_size": 5}, "min_sites is None"),
    ],
)
def test_sums_and_settings_that_no_honest_site_gives_are_refused(sums, given_settings, said) -> None:
    with pytest.raises(vocabulary.VocabularyInvalid, match=said):
        vocabulary.settled(sums, given_settings)


def test_a_listed_vocabulary_is_of_single_tokens() -> None:
    assert vocabulary.given_places(["b", "a", "b"], "characters").tolist() == [98, 97]
    for listed, tokens in ((["ab"], "characters"), (["😀"], "characters"), (["two words"], "words"), ([" "], "words")):
        with pytest.raises(vocabulary.VocabularyInvalid, match="is not one"):
            vocabulary.given_places(listed, tokens)
