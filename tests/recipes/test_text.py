"""The recipe for texts: the next character or word, or a class of each text."""

import re
from typing import Any

import numpy as np
import pytest

from undersong.recipes.protocol import Dataset, RecipeError
from undersong.recipes.reference import score, train_in_one_place
from undersong.recipes.supervised import VOCABULARY
from undersong.recipes.text import KNOWN, RECIPE
from undersong.shared.learning.metrics import evaluation_layout, metrics_of
from undersong.shared.statistics.vocabulary import settled
from undersong.shared.wire.profiles import Column

SMALL = {"window": 16, "hidden": 24, "embedding": 12, "heads": 4, "optimiser": "adam", "learning_rate": 0.02}
GOOD, BAD = "what a good and pleasant day it was. ", "such a poor and dreadful night this is. "


def texts(said: list[str], labels: list[float] | None = None, tests: int = 4) -> Dataset:
    rows = np.array(said, object)
    label = np.zeros(len(rows)) if labels is None else np.array(labels)
    column = Column(name="text", type="text")
    return Dataset("t", (column,), rows, label, np.arange(len(rows) - tests), np.arange(len(rows) - tests, len(rows)))


def both(count: int = 24) -> Dataset:
    return texts([(GOOD if at % 2 else BAD) * 2 for at in range(count)], [float(at % 2) for at in range(count)])


@pytest.mark.parametrize(("model", "tokens"), [("lstm", "characters"), ("transformer", "words")])
def test_the_next_token_of_a_text_is_learned(model: str, tokens: str) -> None:
    params = {**SMALL, "model": model, "tokens": tokens, "epochs": 12}
    data = both()
    tensors = train_in_one_place(RECIPE, data, params, rounds=1)
    said = score(RECIPE, tensors, data, params)
    assert said["accuracy"] > 0.6
    assert said["examples"] == 4, "of rows, not of windows"
    assert said["bits_per_token"] == pytest.approx(said["loss"] / np.log(2))
    assert said["perplexity"] == pytest.approx(np.exp(said["loss"]))
    if tokens == "characters":
        assert said["tokens"] == 2 * (2 * len(GOOD) - 1) + 2 * (2 * len(BAD) - 1)
        following = RECIPE.predict(tensors, {"text": [GOOD[:12], "", GOOD]}, params)
        assert following.shape == (3, KNOWN + tensors[VOCABULARY].size)
        assert following.sum(axis=1) == pytest.approx(np.ones(3))
        assert chr(tensors[VOCABULARY][following[0].argmax() - KNOWN]) == GOOD[12]


@pytest.mark.parametrize(("model", "tokens"), [("lstm", "words"), ("transformer", "characters")])
def test_a_class_of_each_text_is_learned(model: str, tokens: str) -> None:
    params = {**SMALL, "model": model, "tokens": tokens, "task": "binary", "epochs": 8}
    data = both()
    tensors = train_in_one_place(RECIPE, data, params, rounds=1)
    assert score(RECIPE, tensors, data, params)["accuracy"] == 1
    said = RECIPE.predict(tensors, {"text": [GOOD, BAD, ""]}, params)
    assert said[0] > 0.5 > said[1]
    assert np.isfinite(said).all()


def test_padding_changes_nothing_and_no_place_sees_a_later_one() -> None:
    for model in ("lstm", "transformer"):
        params = {**SMALL, "model": model, "task": "next_token"}
        tensors = train_in_one_place(RECIPE, both(), params, rounds=1)
        text = "a day"
        sums = RECIPE.evaluate(tensors, texts([text], tests=1), params, {})
        assert sums[2] == len(text) - 1
        said = RECIPE.predict(tensors, {"text": [text[:at] for at in range(1, len(text))]}, params)
        places = [np.flatnonzero(tensors[VOCABULARY] == ord(each))[0] + KNOWN for each in text[1:]]
        assert sums[1] == pytest.approx(-np.log(said[np.arange(len(places)), places]).sum(), rel=1e-4)


def test_a_round_counts_rows_and_a_class_without_its_token_is_never_right() -> None:
    data, params = both(), dict(SMALL)
    tensors = train_in_one_place(RECIPE, data, params, rounds=1)
    result = RECIPE.train(tensors, data, params, {}, 0, lambda _: None)
    assert result.examples == data.train.size
    strange = RECIPE.evaluate(tensors, texts(["éééé"], tests=1), params, {})
    assert strange[2:].tolist() == [3, 0, 0]


def test_sites_add_up_to_one_vocabulary_without_what_one_alone_says() -> None:
    sites = [texts([GOOD] * 5), texts([GOOD, BAD] * 3), texts([BAD, "Żółw"] * 3)]
    sums = np.sum([RECIPE.statistics(site, {}, 0) for site in sites], axis=0)
    context = settled(sums.tolist(), {"vocabulary_size": 256, "min_sites": 2})
    model = RECIPE.initial(sites[0].shape, {}, context, 0)
    known = "".join(chr(place) for place in model.tensors[VOCABULARY])
    assert set(known) == set(GOOD + BAD)


@pytest.mark.parametrize(
    ("params", "context", "said"),
    [
        ({}, {"vocabulary": []}, "no token is used at 2 sites or more, 1 times at each"),
        ({"vocabulary": ["ab"]}, {}, "'ab' in the vocabulary is not one character"),
        ({}, {"statistics": [1.0]}, "1 sums came"),
        ({}, {"vocabulary": [97.0, float("nan")]}, "no places"),
        ({}, {"vocabulary": [97.0, 97.0]}, "or one twice"),
        ({}, {"vocabulary": [97.5]}, "no places"),
        ({}, {"vocabulary": [2.0**40]}, "outside of 0 to 65535"),
        ({"vocabulary": ["a"], "model": "transformer", "hidden": 10, "heads": 4}, {}, "give a multiple of heads"),
        ({"vocabulary": ["a"], "loss": "focal"}, {}, "leave loss out"),
        ({"vocabulary": ["a"], "loss": "huber", "task": "binary"}, {}, "the task about classes"),
        ({"vocabulary": ["a"], "task": "next_token", "class_weights": [1, 2]}, {}, "class_weights need classes"),
        ({"vocabularies": ["a"]}, {}, "has no parameter vocabularies"),
    ],
)
def test_what_gives_no_model_is_refused_in_a_sentence(
    params: dict[str, Any], context: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=re.escape(said)):
        RECIPE.initial(both().shape, params, context, 0)


def test_rows_without_two_tokens_are_refused_where_they_are_trained_on() -> None:
    params = {**SMALL, "vocabulary": ["a"]}
    data = texts(["a", "", "a", "a"], tests=1)
    tensors = RECIPE.initial(data.shape, params, {}, 0).tensors
    with pytest.raises(RecipeError, match="no text with two"):
        RECIPE.train(tensors, data, params, {}, 0, lambda _: None)
    sums = RECIPE.evaluate(tensors, data, params, {})
    assert metrics_of("next_token", sums) == {"examples": 1.0, "tokens": 0.0}


def test_a_model_with_places_that_are_none_is_refused() -> None:
    params = {**SMALL, "vocabulary": ["a"]}
    data = both()
    tensors = RECIPE.initial(data.shape, params, {}, 0).tensors
    for odd in ([-1], [2**16], [97.0]):
        with pytest.raises(RecipeError, match="no place of a token"):
            RECIPE.evaluate({**tensors, VOCABULARY: np.array(odd)}, data, params, {})


def test_the_layout_follows_the_task() -> None:
    assert evaluation_layout(RECIPE.spec, {}) == "next_token"
    assert evaluation_layout(RECIPE.spec, {"task": "multiclass", "classes": 4}) == "multiclass:4"
    assert RECIPE.spec.statistics
    assert RECIPE.spec.reduces == "vocabulary"
