"""Columns of several sites: what is matched by its text, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undersong.recipes.agreed import image_fault, in_agreed_form
from undersong.recipes.protocol import Dataset
from undersong.shared.wire.columns import Agreement, Column, agree, misfit
from undersong.shared.wire.manifest import DataRef
from undersong.shared.wire.profiles import DatasetSchema, schema_fault

TEXTS = st.lists(st.text("abcxyz01 ", min_size=1, max_size=4), min_size=1, max_size=6, unique=True)


def category(*texts: str, name: str = "sick") -> Column:
    return Column(name=name, type="category", categories=texts)


def image(shape: tuple[int, int, int] = (3, 4, 4), *channels: str) -> Column:
    return Column(name="scan", type="image", shape=shape, channels=channels or None)


def data_of(columns: tuple[Column, ...], features: np.ndarray, label: np.ndarray, name: str | None) -> Dataset:
    rows = np.arange(len(label))
    return Dataset("d", columns, features, label, rows, rows[:0], name)


@given(TEXTS, st.data())
def test_sites_that_list_the_same_texts_in_any_order_read_the_same_rows(texts: list[str], data: st.DataObject) -> None:
    """Whatever the orders, every row keeps its text, in features and label, at every site."""
    orders = [tuple(data.draw(st.permutations(texts))) for _ in range(3)]
    rows = [data.draw(st.sampled_from([*texts, None])) for _ in range(8)]
    found = agree({f"site-{at}": category(*order) for at, order in enumerate(orders)})
    assert found.agreed is not None
    assert sorted(found.agreed.categories or ()) == sorted(texts)
    read = []
    for order in orders:
        places = np.array([np.nan if text is None else order.index(text) for text in rows])
        own = (category(*order, name="a"), category(*order))
        made = data_of(own[:1], places[:, None], places, "sick")
        agreed = (found.agreed.model_copy(update={"name": "a"}), found.agreed)
        assert [misfit(*pair) for pair in zip(own, agreed, strict=True)] == [None, None]
        read.append(in_agreed_form(made, own, agreed))
    for made in read:
        assert made.columns[0].categories == found.agreed.categories
        for values in (made.features[:, 0], made.label):
            said = [None if np.isnan(at) else (found.agreed.categories or ())[int(at)] for at in values]
            assert said == rows


@given(TEXTS, TEXTS)
def test_other_texts_are_refused_with_site_column_and_remedy(one: list[str], other: list[str]) -> None:
    found = agree({"alpha": category(*one), "beta": category(*one), "gamma": category(*other)})
    if set(one) == set(other):
        assert found.agreed is not None
        return
    assert found.agreed is None
    (fault,) = found.faults
    assert "'sick'" in fault
    assert "gamma" in fault
    unfit = misfit(category(*other), category(*one))
    for told in (fault, unfit or ""):
        assert 0 < told.index("map the words with `values`") < told.index("data.categories")


def test_words_at_one_site_and_numbers_at_another_can_be_mapped() -> None:
    words, numbers = category("ja", "nein"), Column(name="sick", type="number")
    (fault,) = agree({"alpha": words, "beta": numbers}).faults
    for told in (fault, misfit(words, numbers) or ""):
        assert 0 < told.index("map the words with `values` in that site's datasets.yaml") < told.index("one type")
    (fault,) = agree({"alpha": image().model_copy(update={"name": "sick"}), "beta": numbers}).faults
    assert "values" not in fault


def test_the_order_is_the_one_that_most_sites_list() -> None:
    found = agree({"alpha": category("no", "yes"), "beta": category("yes", "no"), "gamma": category("yes", "no")})
    assert found.agreed == category("yes", "no")
    assert "alpha" in found.notes[0]
    even = agree({"alpha": category("yes", "no"), "beta": category("no", "yes")})
    assert even.agreed == category("no", "yes")


def test_a_list_in_the_job_takes_the_place_of_the_sites_own() -> None:
    sites = {"alpha": category("a", "b"), "beta": category("b", "c")}
    assert agree(sites, ["c", "b", "a"]).agreed == category("c", "b", "a")
    refused: Agreement = agree(sites, ["a", "b"])
    assert "beta" in refused.faults[0]
    assert "'c'" in refused.faults[0]


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (Column(name="scan", type="number"), category("a", name="scan"), "a number at alpha, and a category at beta"),
        (image((1, 8, 8)), image((1, 9, 9)), "images of 1x8x8 at alpha, and images of 1x9x9 at beta"),
        (image((3, 4, 4), "red", "green", "blue"), image(), "no named channels at beta"),
        (image((3, 4, 4), "red", "green", "blue"), image((3, 4, 4), "hue", "saturation", "value"), "'hue'"),
    ],
)
def test_types_shapes_and_channels_that_differ_are_refused(one: Column, other: Column, said: str) -> None:
    (fault,) = agree({"alpha": one, "beta": other}).faults
    assert said in fault
    assert misfit(other, one) is not None


def test_channels_are_matched_by_their_names() -> None:
    red, blue = image((3, 4, 4), "red", "green", "blue"), image((3, 4, 4), "blue", "green", "red")
    found = agree({"alpha": red, "beta": blue, "gamma": red})
    assert found.agreed == red
    pixels = np.zeros((2, 3, 4, 4), np.float32)
    pixels[:, 0] = 1
    read = in_agreed_form(data_of((blue,), pixels, np.zeros(2), None), (blue,), (red,))
    assert read.features[:, 2].min() == 1
    assert read.features[:, :2].max() == 0


def stored(scale: tuple[float, float] | None = None, dtype: str | None = None) -> Column:
    return image().model_copy(update={"scale": scale, "dtype": dtype})


FULL = [stored(dtype="uint8"), stored(dtype="float32"), stored((0, 1), "float64"), stored((0, 255), "uint8")]
FULL += [stored((0, 4095), "uint16"), stored((0, 65535), "uint16"), stored((0, 1), "uint8")]
ODD = [
    stored(dtype="uint16"),
    stored((-1024, 3071), "int16"),
    stored((-1000, 1000), "int16"),
    stored((0, 100), "uint8"),
]


@given(st.lists(st.sampled_from([*FULL, *ODD]), min_size=2, max_size=5))
def test_sites_whose_pixels_are_scaled_differently_are_refused(columns: list[Column]) -> None:
    """One value must mean the same everywhere after each site scaled its own; black to white is one meaning."""
    found = agree({f"site-{at}": column for at, column in enumerate(columns)})
    kinds = {"full" if column in FULL else repr(column) for column in columns}
    if len(kinds) == 1:
        assert found.agreed is not None
        assert [misfit(column, found.agreed) for column in columns] == [None] * len(columns)
        assert found.agreed.dtype in (None, "uint16"), "the types are each site's own"
        assert bool(found.notes) == (len({(c.scale, None if c.scale else c.dtype) for c in columns}) > 1)
    else:
        (fault,) = found.faults
        assert all(f"site-{at}" in fault for at in range(len(columns)))
        assert "under ranges in each site's datasets.yaml" in fault
    for own in columns:
        for other in columns:
            agreed = agree({"other": other}).agreed
            assert agreed is not None
            same = own == other or (own in FULL and other in FULL)
            assert (misfit(own, agreed) is None) == same


def test_what_a_site_tells_of_its_numbers_is_not_agreed_on() -> None:
    """Rows that come later may change it: the site goes on taking part."""
    told = {kind: Column(name="x", type="number", numbers=kind) for kind in ("binary", "whole", "real")}
    found = agree(told)
    assert found.agreed == Column(name="x", type="number")
    assert [misfit(column, found.agreed) for column in told.values()] == [None] * 3
    assert "numbers" not in found.agreed.model_dump()


def test_images_of_another_shape_than_agreed_are_refused() -> None:
    pixels = np.zeros((2, 1, 5, 5), np.float32)
    read = data_of((image((1, 5, 5)),), pixels, np.zeros(2), None)
    assert image_fault(read, (image((1, 5, 5)),)) is None
    assert "1x5x5" in str(image_fault(read, (image((1, 4, 4)),)))
    asked = (image((1, 5, 5)).model_copy(update={"scale": (0, 1)}),)
    for dtype, refused in (("uint8", False), ("uint16", True)):
        held = data_of((image((1, 5, 5)).model_copy(update={"dtype": dtype}),), pixels, np.zeros(2), None)
        assert (image_fault(held, asked) is not None) == refused


def test_the_agent_compares_its_own_schema() -> None:
    own = DatasetSchema(name="d", kind="csv", columns=(category("yes", "no"), Column(name="x", type="number")))
    asked = DataRef(dataset="d", features=("x",), label="sick", columns=(own.columns[1], category("no", "yes")))
    assert schema_fault(own, asked) is None
    fewer = own.model_copy(update={"columns": (category("yes"), own.columns[1])})
    assert "'no'" in str(schema_fault(fewer, asked))
    assert schema_fault(fewer, asked.model_copy(update={"listed": ("sick",)})) is None
    assert "'x'" in str(schema_fault(own.model_copy(update={"columns": own.columns[:1]}), asked))


def test_a_manifest_names_the_columns_that_it_describes() -> None:
    with pytest.raises(ValueError, match="columns must be"):
        DataRef(dataset="d", features=("x",), columns=(category("a"),))
    assert DataRef(dataset="d", features=("x",)).model_dump() == {"dataset": "d", "features": ("x",), "label": None}
