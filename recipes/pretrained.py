"""Files of a pretrained model that each site has: found by name, and used only where their SHA-256 is the recipe's.

They are never sent. A recipe's digest covers its file, so it covers the digests that are written there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import mmap
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from undersong.recipes import training
from undersong.recipes.protocol import Array, RecipeError, Tensors
from undersong.shared.files import file_mark, open_regular
from undersong.shared.learning import safetensors
from undersong.shared.names import hint

if TYPE_CHECKING:
    import torch

FROZEN: Final = "frozen.sha256"
"""The tensor of a model, uint8[32], that says which frozen tensors its sites have: the SHA-256 of all of them."""
_CHECKED: dict[Path, tuple[object, str]] = {}


@dataclass(frozen=True, slots=True)
class Pretrained:
    """Files by name with their SHA-256 in hexadecimal digits.

    package: the importable Python package that holds them. Without one they lie in the folder beside the recipe that is
    named as it is: those of `sentences.py` in `sentences`, where `beside` is the recipe's `__file__`.

    Raises `RecipeError` for a name or digest that is none.
    """

    files: Mapping[str, str]
    package: str | None = None
    beside: str | Path | None = None

    def __post_init__(self) -> None:
        if (self.package is None) == (self.beside is None):
            raise RecipeError("pretrained files are of a package or lie beside the recipe: give one of the two")
        for name, digest in self.files.items():
            if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
                raise RecipeError(f"{name} is outside the folder of the pretrained files: give names inside it")
            if not re.fullmatch("[0-9a-f]{64}", digest):
                raise RecipeError(
                    f"the SHA-256 of {name} must be 64 hexadecimal digits in lower case: sha256sum {name}"
                )

    def path(self, name: str) -> Path:
        """Return where a file lies; raises `RecipeError` where it is not there or is another."""
        if name not in self.files:
            raise RecipeError(f"{name} is not among the pretrained files{hint(name, self.files)}")
        file = self._folder() / name
        try:
            found = _sha256(file)
        except OSError as error:
            raise RecipeError(f"the pretrained file {name} cannot be read at this site: {error.strerror}") from None
        if found != self.files[name]:
            raise RecipeError(
                f"the pretrained file {name} at this site is another than the recipe's: its SHA-256 begins with "
                f"{found[:12]}, and {self.files[name][:12]} is wanted; install the file that the recipe was written for"
            )
        return file

    def check(self) -> None:
        """Raise `RecipeError` unless all files are there and are the recipe's."""
        for name in self.files:
            self.path(name)

    def load(
        self, module: torch.nn.Module, name: str, *, fresh: Sequence[str] = (), unused: Sequence[str] = ()
    ) -> None:
        """Put the tensors of a safetensors file into the module.

        fresh: layers of the module that the file does not have, by their names or how those begin; they keep what the
        module begins with. unused: those of the file that the module does not have. Raises `RecipeError` for any other
        difference of names, for another shape or kind of numbers, and for values that are not finite.
        """
        import torch

        wanted = training.named_tensors(module)
        found = self._tensors(name)
        _check_names(name, found, wanted, fresh, unused)
        with torch.no_grad():
            for key, tensor in wanted.items():
                if key in found:
                    _check_tensor(name, key, found[key], tensor)
                    tensor.copy_(torch.from_numpy(np.array(found[key])))
                    if tensor.is_floating_point() and not tensor.isfinite().all():
                        raise RecipeError(f"tensor {key} of {name} holds a number that {tensor.dtype} cannot hold")

    def _tensors(self, name: str) -> Tensors:
        """Return a file's tensors, which are read as they are used."""
        with self.path(name).open("rb") as file:
            try:
                return safetensors.read(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
            except (safetensors.BadModelFile, ValueError) as refusal:
                raise RecipeError(f"the pretrained file {name} is not used: {refusal}") from None

    def _folder(self) -> Path:
        if self.beside is not None:
            return Path(self.beside).resolve().with_suffix("")
        try:
            found = importlib.util.find_spec(self.package or "")
        except (ImportError, ValueError):
            found = None
        if found is None or not found.submodule_search_locations:
            raise RecipeError(
                f"the Python package {self.package} is not installed at this site, and the recipe's pretrained files "
                "are in it: install it beside the agent"
            )
        return Path(found.submodule_search_locations[0])


def digest_of(tensors: Tensors) -> Tensors:
    """Return the tensor `FROZEN` of these tensors."""
    return {FROZEN: np.frombuffer(bytes.fromhex(safetensors.tensor_digest(tensors)), np.uint8)}


def check_frozen(model: Tensors, tensors: Tensors) -> None:
    """Raise `RecipeError` unless these frozen tensors are those with which the model was made."""
    if FROZEN in model and not np.array_equal(model[FROZEN], digest_of(tensors)[FROZEN]):
        raise RecipeError(
            "the frozen layers at this site are others than those that the model was made with: build must load them "
            "from the pretrained files, and draw no random numbers for them"
        )


def _check_names(
    file: str, found: Tensors, wanted: Mapping[str, Any], fresh: Sequence[str], unused: Sequence[str]
) -> None:
    for layers, names, said in ((fresh, wanted, "fresh"), (unused, found, "unused")):
        for layer in layers:
            if not any(name.startswith(layer) for name in names):
                raise RecipeError(f"{said} names {layer!r}, and there is no such layer{hint(layer, names)}")
    missing = [name for name in wanted if name not in found and not name.startswith(tuple(fresh))]
    if missing:
        raise RecipeError(
            f"{file} has no tensor {missing[0]}, which the module has{hint(missing[0], found)}"
            f"{_more(missing)}: correct the module's names, or list the layer in fresh"
        )
    extra = [name for name in found if name not in wanted and not name.startswith(tuple(unused))]
    if extra:
        raise RecipeError(
            f"{file} has a tensor {extra[0]}, which the module has not{hint(extra[0], wanted)}"
            f"{_more(extra)}: correct the module's names, or list the layer in unused"
        )


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _check_tensor(file: str, name: str, array: Array, tensor: torch.Tensor) -> None:
    if array.shape != tuple(tensor.shape):
        raise RecipeError(
            f"tensor {name} of {file} has the shape {list(array.shape)}, the module's {list(tensor.shape)}"
        )
    if (array.dtype.kind == "f") != tensor.is_floating_point():
        raise RecipeError(f"tensor {name} of {file} is {array.dtype.name}, and the module's is {tensor.dtype}")


def _sha256(file: Path) -> str:
    """Return a file's digest, which is computed again when the file changed."""
    mark = file_mark(file)
    if file not in _CHECKED or _CHECKED[file][0] != mark:
        with os.fdopen(open_regular(file), "rb") as opened:
            _CHECKED[file] = mark, hashlib.file_digest(opened, "sha256").hexdigest()
    return _CHECKED[file][1]
