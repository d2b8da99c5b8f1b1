"""A data set's rows in the form that all sites of a job agreed on: categories and channels by their texts."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from undersong.recipes.protocol import Array, Column, Dataset
from undersong.shared.wire.columns import misfit
from undersong.shared.wire.manifest import DataRef

Groups = npt.NDArray[np.float64]


def in_agreed_form(data: Dataset, declared: Sequence[Column], agreed: Sequence[Column]) -> Dataset:
    """Return the data set with each category's position, and each channel, where the agreed columns have it.

    `declared` are the site's own columns, the label's among them. Every text of theirs must be one of the agreed ones
    (see `undersong.shared.wire.profiles.schema_fault`).
    """
    wanted = {column.name: column for column in agreed}
    features = data.features
    for place, own in enumerate(data.columns):
        there = wanted.get(own.name, own)
        if own.type == "image" and own.channels and there.channels and own.channels != there.channels:
            features = features[:, [own.channels.index(name) for name in there.channels]]
        elif own.type == "category" and own.categories != there.categories:
            features = features.copy() if features is data.features else features
            features[:, place] = _moved(features[:, place], own, there)
    label = data.label
    own_label = next((column for column in declared if column.name == data.label_name), None)
    if own_label is not None and own_label.type == "category":
        label = _moved(label, own_label, wanted.get(own_label.name, own_label))
    columns = tuple(wanted.get(column.name, column) for column in data.columns)
    return replace(data, columns=columns, features=features, label=label)


def split_groups(data: Dataset, asked: DataRef) -> tuple[Dataset, Groups | None]:
    """Return the data set without a column that was read for its groups alone, and each row's place among the groups.

    `data` is in the agreed form; without a group the places are None.
    """
    if asked.group is None:
        return data, None
    if asked.group == asked.label:
        return data, data.label
    place = [column.name for column in data.columns].index(asked.group)
    groups = np.array(data.features[:, place])
    if asked.group in asked.features:
        return data, groups
    columns = (*data.columns[:place], *data.columns[place + 1 :])
    return replace(data, columns=columns, features=np.delete(data.features, place, axis=1)), groups


def rows_by_group(rows: npt.NDArray[np.int64], groups: Groups | None, count: int) -> list[npt.NDArray[np.int64]]:
    """Return which of the rows are in each of `count` groups."""
    return [] if groups is None else [rows[groups[rows] == place] for place in range(count)]


def image_fault(data: Dataset, agreed: Sequence[Column]) -> str | None:
    """Return why the images are not of the shape and scale that were agreed on; None where they are, or there are none.

    `data` is as the site declares it, before `in_agreed_form`.
    """
    shape = data.shape.sample
    if shape is None:
        return None
    wanted = {column.name: column for column in agreed}
    own = [column.model_copy(update={"shape": shape}) for column in data.columns if column.name in wanted]
    return next((fault for column in own if (fault := misfit(column, wanted[column.name])) is not None), None)


def _moved(positions: Array, own: Column, agreed: Column) -> npt.NDArray[np.float64]:
    """Return positions among the agreed categories for those among a site's own; NaN stays."""
    places = {text: float(place) for place, text in enumerate(agreed.categories or ())}
    moved = np.array([places[text] for text in own.categories or ()], np.float64)
    made = np.full(positions.shape, np.nan)
    known = np.isfinite(positions)
    made[known] = moved[positions[known].astype(np.int64)]
    return made
