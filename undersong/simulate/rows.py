"""The rows of a simulation and whose they are: as one data set in memory, or mapped from files by its workers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes.protocol import Column, Dataset
from undersong.recipes.reference import pool
from undersong.shared.wire.profiles import DatasetSchema
from undersong.simulate.conditions import BY, SITES, Conditions, ConditionsInvalid, PartitionRule
from undersong.simulate.partitions import (
    Rows,
    Split,
    no_rows,
    owners_by_label,
    owners_by_value,
    split_by_value,
    split_rows,
)
from undersong.simulate.sampling import Population

_ARRAYS: Final = ("features", "label", "train", "test")
_NO_ROWS: Final = np.zeros(0, np.int64)


@dataclass(frozen=True)
class ClientRows:
    """A data set whose training rows are dealt to clients; its test rows are everybody's, and evaluate the model.

    `split` numbers the rows of `data.train`. `held_out` are the test rows of each client where it brought its own.
    `tested` is the client of each test row, int64[tests], -1 for none, where the partition says which it is.
    """

    data: Dataset
    split: Split
    held_out: tuple[int, ...] = ()
    tested: Rows | None = None

    @cached_property
    def population(self) -> Population:
        """The clients."""
        return Population(self.split.clients, self.split.names)

    @property
    def told(self) -> list[int]:
        """How many rows each client tells that it has."""
        return [int(count) for count in self.split.sizes + np.array(self.held_out or 0)]

    def of(self, client: int) -> Dataset:
        """Return the rows that one client trains with."""
        rows = self.data.train[self.split.of(client)]
        place = (client, self.split.clients)
        return replace(_chosen(self.data, rows, np.arange(rows.size), _NO_ROWS), client=place)

    def tests(self, places: Sequence[int]) -> Dataset:
        """Return the test rows at these places among them; a range is not copied."""
        at = slice(places.start, places.stop) if isinstance(places, range) else list(places)
        rows = self.data.test[at]
        return _chosen(self.data, rows, _NO_ROWS, np.arange(rows.size))

    def owners(self, seed: int) -> Rows:
        """Return the client on whose own model each test row is tried, int64[tests]; -1 for none.

        That is the client that trains on the row or has its value; else one that trains on rows of its label.
        """
        if self.tested is not None:
            return self.tested
        data = self.data
        owners = owners_by_label(data.label[data.train], self.split, data.label[data.test], seed)
        if np.intersect1d(data.train, data.test).size:  # a job that evaluates all rows
            trains = np.full(len(data.label), -1, np.int64)
            trains[data.train[self.split.rows]] = np.repeat(np.arange(self.split.clients), self.split.sizes)
            owners = np.where(trains[data.test] >= 0, trains[data.test], owners)
        return owners

    def parts(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Return everything that clients' work needs as values of JSON and arrays."""
        arrays = {name: getattr(self.data, name) for name in _ARRAYS}
        arrays |= {"rows": self.split.rows, "offsets": self.split.offsets}
        facts = {
            "name": self.data.name,
            "label_name": self.data.label_name,
            "columns": [column.model_dump(mode="json", exclude_none=True) for column in self.data.columns],
            "names": list(self.split.names),
        }
        return facts, {name: storable(array) for name, array in arrays.items()}

    @classmethod
    def of_parts(cls, facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> "ClientRows":
        """Return the rows that `parts` took apart."""
        data = Dataset(
            name=facts["name"],
            columns=tuple(Column.model_validate(column) for column in facts["columns"]),
            label_name=facts["label_name"],
            **{name: arrays[name] for name in _ARRAYS},
        )
        return cls(data, Split(arrays["rows"], arrays["offsets"], tuple(facts["names"])))

    def save(self, folder: Path) -> None:
        """Write everything as files that workers map."""
        folder.mkdir(parents=True, exist_ok=True)
        facts, arrays = self.parts()
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
        (folder / "facts.json").write_text(json.dumps(facts))

    @classmethod
    def open(cls, folder: Path) -> "ClientRows":
        """Map what `save` wrote."""
        facts = json.loads((folder / "facts.json").read_text())
        return cls.of_parts(facts, {name: _mapped(folder / f"{name}.npy") for name in (*_ARRAYS, "rows", "offsets")})


def deal(data: Dataset, conditions: Conditions, seed: int, column: npt.NDArray[np.float64] | None = None) -> ClientRows:
    """Deal a data set's training rows as the conditions say; raises `ConditionsInvalid`.

    `column`: each row's value of the column that partition `by` names, where it is not among the features.
    """
    rule, clients = conditions.partition, conditions.clients
    if rule.kind == BY:
        values, names = _values(data, rule, column)
        split = split_by_value(values[data.train], names)
        if clients not in (None, split.clients):
            said = f"column {rule.column} has {split.clients} values, and {clients} clients are asked for"
            raise ConditionsInvalid(said, remedy="leave --clients out: each value is a client")
        return ClientRows(data, split, tested=owners_by_value(values[data.train], split, values[data.test]))
    if clients is None:
        raise ConditionsInvalid("how many clients is not said", remedy="give --clients, such as --clients 100")
    if not data.features.shape[0]:
        return ClientRows(data, no_rows(clients))
    return ClientRows(data, split_rows(rule, data.label[data.train], clients, seed))


def of_sites(sites: Mapping[str, Dataset], conditions: Conditions) -> ClientRows:
    """Make a client of each data set; raises `ConditionsInvalid` where conditions deal rows, too."""
    if conditions.partition.kind not in ("iid", SITES) or conditions.clients not in (None, len(sites)):
        raise ConditionsInvalid(
            f"{len(sites)} data sets are {len(sites)} clients already", remedy="leave clients and partition out"
        )
    named = {name: sites[name] for name in sorted(sites)}
    sizes = [each.train.size for each in named.values()]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    split = Split(np.arange(offsets[-1]), offsets, tuple(named))
    held_out = [each.test.size for each in named.values()]
    tested = np.repeat(np.arange(len(named)), held_out)
    return ClientRows(pool(list(named.values())), split, tuple(held_out), tested)


def schema_of(data: Dataset) -> DatasetSchema:
    """Return what a site with this data set would declare."""
    label = data.label_name
    columns = data.columns if label is None else (*data.columns, Column(name=label, type="number"))
    return DatasetSchema(name=data.name, kind="npz", columns=columns, label=label, rows=len(data.label))


def storable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array that a file can hold without pickles: texts in place of objects."""
    return array.astype(str) if array.dtype == object else array


def _values(
    data: Dataset, rule: PartitionRule, column: npt.NDArray[np.float64] | None
) -> tuple[npt.NDArray[np.float64], dict[float, str]]:
    if column is not None:
        return column, {}
    names = [each.name for each in data.columns]
    if rule.column == data.label_name:
        return data.label, {}
    if rule.column not in names or data.features.ndim != 2:
        from undersong.shared.names import hint

        said = f"the data set has no column {rule.column!r} to deal by{hint(rule.column, names)}"
        raise ConditionsInvalid(said, remedy="name a column of numbers or categories that its declaration has")
    place = names.index(rule.column)
    texts = data.columns[place].categories or ()
    return data.features[:, place], {float(at): text for at, text in enumerate(texts)}


def _chosen(data: Dataset, rows: Rows, train: Rows, test: Rows) -> Dataset:
    features, label = np.asarray(data.features[rows]), np.asarray(data.label[rows])
    if features.dtype.kind == "U":  # texts, as `storable` keeps them
        features = features.astype(object)
    return Dataset(data.name, data.columns, features, label, train, test, data.label_name)


def _mapped(path: Path) -> Any:
    return np.load(path, mmap_mode="r", allow_pickle=False)
