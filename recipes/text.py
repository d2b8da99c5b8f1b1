"""Recipe `text`: the next character or word of texts, or a class of each, by an LSTM or a small transformer.

Tokens are characters or words. Which of them the model knows follows from sums over all sites
(`undersong.shared.statistics.vocabulary`) or is listed in the job; 0 fills a window up, 1 is any token that is not
known. To predict the next token a text is cut into windows that follow each other; of a text whose class is predicted,
the first window is read.

Sources: Hochreiter and Schmidhuber, Long Short-Term Memory (Neural Computation 1997); Vaswani et al., Attention Is All
You Need (NeurIPS 2017), with normalisation first; windows and task of McMahan et al. (AISTATS 2017), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from undersong.recipes import training
from undersong.recipes.learner import LocalRound, ModelShape, softmax
from undersong.recipes.protocol import (
    Array,
    Context,
    Dataset,
    DataShape,
    Params,
    Progress,
    RecipeError,
    Tensors,
    TrainResult,
)
from undersong.recipes.supervised import TEXT, VOCABULARY
from undersong.recipes.torch_recipe import TORCH_FILES, TorchRecipe
from undersong.shared.errors import Refusal
from undersong.shared.learning.metrics import next_token_sums
from undersong.shared.statistics.vocabulary import (
    PLACES,
    RULE,
    given_places,
    places_of,
    site_sums,
    told_places,
    vocabulary_of,
)
from undersong.shared.wire.profiles import Task

if TYPE_CHECKING:
    import torch

_HERE: Final = Path(__file__).parent
PADDING: Final = 0
UNKNOWN: Final = 1
KNOWN: Final = 2
"""The number of the first token that the vocabulary knows."""
NO_TARGET: Final = -1
_AT_ONCE: Final = 2**23  # probabilities that are looked at together
_PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "task": {
        "enum": [str(Task.NEXT_TOKEN), str(Task.BINARY), str(Task.MULTICLASS)],
        "default": str(Task.NEXT_TOKEN),
        "description": "What is predicted: the next character or word at each place of a text, which needs no label, "
        "or the label of each text, one of two classes or one of several.",
    },
    "classes": {
        "type": "integer",
        "minimum": 2,
        "maximum": 1000,
        "default": 2,
        "description": "Classes of the label with task multiclass.",
    },
    "tokens": {
        "enum": ["characters", "words"],
        "default": "characters",
        "description": "What a text is made of; words are in small letters, marks stand alone.",
    },
    "window": {
        "type": "integer",
        "minimum": 1,
        "maximum": 4096,
        "default": 80,
        "description": "Tokens that the model looks at together.",
    },
    "vocabulary": {
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": 200},
        "maxItems": 20_000,
        "default": [],
        "description": "The characters or words that the model knows; empty: those that enough sites use, by sums over "
        "all sites.",
    },
    "vocabulary_size": {
        "type": "integer",
        "minimum": 1,
        "maximum": 20_000,
        "default": 256,
        "description": "How many tokens the model knows at most, the most frequent ones.",
    },
    "min_sites": {
        "type": "integer",
        "minimum": 1,
        "maximum": 1_000_000,
        "default": 2,
        "description": "Sites that must use a token before the vocabulary has it.",
    },
    "min_count": {
        "type": "integer",
        "minimum": 1,
        "maximum": 1_000_000,
        "default": 1,
        "description": "Uses in a site's training rows before it tells a token at all.",
    },
    "model": {
        "enum": ["lstm", "transformer"],
        "default": "lstm",
        "description": "lstm goes through the tokens in order; transformer looks at those of a window together.",
    },
    "embedding": {
        "type": "integer",
        "minimum": 1,
        "maximum": 4096,
        "default": 8,
        "description": "Numbers that stand for a token in front of an lstm; a transformer takes `hidden`.",
    },
    "hidden": {
        "type": "integer",
        "minimum": 1,
        "maximum": 8192,
        "default": 128,
        "description": "Width of each layer; of a transformer a multiple of `heads`.",
    },
    "layers": {"type": "integer", "minimum": 1, "maximum": 24, "default": 1, "description": "Layers of the model."},
    "heads": {
        "type": "integer",
        "minimum": 1,
        "maximum": 64,
        "default": 4,
        "description": "Heads of each layer's attention in a transformer.",
    },
    "dropout": {
        "type": "number",
        "minimum": 0,
        "maximum": 0.95,
        "default": 0.0,
        "description": "Share of each layer's numbers that a step leaves out.",
    },
}


class TextRecipe(TorchRecipe):
    """A torch recipe whose model has the federation's vocabulary among its fixed tensors."""

    reduces = RULE

    def statistics(self, data: Dataset, params: Params, seed: int) -> npt.NDArray[np.float64]:  # noqa: ARG002
        """Return which tokens this site's training texts use, and how often."""
        settings = self.settings(params)
        return site_sums(map(str, data.features[data.train]), settings["tokens"], settings["min_count"])

    def prepared(self, shape: DataShape, settings: Mapping[str, Any], context: Context) -> Tensors:  # noqa: ARG002
        """Return the vocabulary as a tensor: listed, told by the coordinator, or of the rows at hand alone."""
        try:
            if settings["vocabulary"]:
                places = given_places(settings["vocabulary"], settings["tokens"])
            elif RULE in context:
                places = told_places(context[RULE])
            else:  # sums of one place, where a model is trained without others
                places = vocabulary_of(context.get("statistics", ()), settings["vocabulary_size"], 1)
        except Refusal as refusal:
            raise RecipeError(refusal.detail) from refusal
        if not places.size:
            raise RecipeError(
                f"no token is used at {settings['min_sites']} sites or more, {settings['min_count']} times at each: "
                "lower min_sites or min_count, or list the vocabulary in the job"
            )
        return {VOCABULARY: places}

    def train(
        self, model: Tensors, data: Dataset, params: Params, context: Context, seed: int, progress: Progress
    ) -> TrainResult:
        """Train on the training rows' windows, or on the rows and their labels."""
        settings = self.settings(params)
        if self._task_of(settings) is not Task.NEXT_TOKEN:
            return super().train(model, data, params, context, seed, progress)
        x, y = _windows(model, data.features[data.train], settings)
        if not len(y):
            raise RecipeError("the training rows hold no text with two characters or words")
        shape = self._shape(x.shape[1:], settings, model)
        made = self.learn(model, LocalRound(shape, x, y, settings, context, seed, progress, data.local))
        tensors = self.kept(model) | made.tensors
        return TrainResult(tensors, int(data.train.size), made.loss, tuple(made.events), made.local)

    def evaluate(self, model: Tensors, data: Dataset, params: Params, context: Context) -> npt.NDArray[np.float64]:
        """Return sums over the test rows."""
        settings = self.settings(params)
        if self._task_of(settings) is not Task.NEXT_TOKEN:
            return super().evaluate(model, data, params, context)
        x, y = _windows(model, data.features[data.test], settings)
        parts = [
            next_token_sums(y[rows], said, KNOWN)
            for rows, said in self._said(self.at_site(model, data.local), x, settings)
        ]
        found = np.sum(parts, axis=0) if parts else np.zeros(5)
        found[0] = data.test.size
        return np.asarray(found, np.float64)

    def predict(self, model: Tensors, rows: Mapping[str, Any], params: Params) -> npt.NDArray[np.float64]:
        """Return each text's probabilities of classes, or those of the token that follows it, [n, tokens]."""
        settings = self.settings(params)
        if self._task_of(settings) is not Task.NEXT_TOKEN:
            return super().predict(model, rows, params)
        if len(rows) != 1:
            raise RecipeError("give exactly one column of texts")
        texts = [str(text) for text in next(iter(rows.values()))]
        size = settings["window"]
        numbers = _Numbers(model, settings)
        ends = [numbers(text)[-size:] for text in texts]
        x = np.stack([_filled(end if end.size else np.array([UNKNOWN]), size) for end in ends]) if ends else _none(size)
        last = np.array([max(1, end.size) - 1 for end in ends], np.int64)
        found = [said[np.arange(len(said)), last[part]] for part, said in self._said(model, x, settings)]
        return np.concatenate(found) if found else np.zeros((0, _size(model)))

    def _said(
        self, model: Tensors, x: Array, settings: Mapping[str, Any]
    ) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
        """Yield parts of the windows and their probabilities, float64[n, window, tokens]."""
        module = self._module(self._shape(x.shape[1:], settings, model), settings, model)
        step = max(1, _AT_ONCE // (x.shape[1] * _size(model)))
        for at in range(0, len(x), step):
            part = slice(at, at + step)
            logits = training.outputs(module, x[part]).astype(np.float64)
            yield part, softmax(logits.reshape(-1, logits.shape[-1])).reshape(logits.shape)

    def _inputs(self, model: Tensors, data: Dataset, rows: Array, settings: Mapping[str, Any]) -> Array:
        return _heads(model, data.features[rows], settings)

    def _encoded(self, model: Tensors, texts: Sequence[str], settings: Mapping[str, Any]) -> Array:
        return _heads(model, texts, settings)

    def _sample(self, shape: DataShape, settings: Mapping[str, Any]) -> tuple[int, ...]:  # noqa: ARG002
        return (int(settings["window"]),)

    def _shape(self, sample: tuple[int, ...], settings: Mapping[str, Any], fixed: Tensors) -> ModelShape:
        task = self._task_of(settings)
        outputs = {Task.NEXT_TOKEN: _size(fixed), Task.MULTICLASS: self._classes_of(settings)}.get(task, 1)
        return ModelShape(tuple(sample), outputs, task, tokens=_size(fixed))


def _size(model: Tensors) -> int:
    """Return how many numbers a token can have, those of padding and of unknown tokens among them."""
    return KNOWN + int(model[VOCABULARY].size)


class _Numbers:
    """Turns a text into the number of each of its tokens, int64[n]; raises `RecipeError` for no vocabulary."""

    def __init__(self, model: Tensors, settings: Mapping[str, Any]) -> None:
        self._table = np.full(PLACES + 1, UNKNOWN, np.int64)
        self._tokens = settings["tokens"]
        known = model[VOCABULARY]
        if known.dtype.kind not in "iu" or (known.size and not 0 <= known.min() <= known.max() < PLACES):
            raise RecipeError("the model's vocabulary holds what is no place of a token")
        self._table[known] = np.arange(KNOWN, KNOWN + known.size)

    def __call__(self, text: str) -> npt.NDArray[np.int64]:
        made: npt.NDArray[np.int64] = self._table[places_of(text, self._tokens)]
        return made


def _filled(numbers: npt.NDArray[np.int64], size: int, with_: int = PADDING) -> npt.NDArray[np.int64]:
    made = np.full(size, with_, np.int64)
    made[: min(size, numbers.size)] = numbers[:size]
    return made


def _none(size: int) -> npt.NDArray[np.int64]:
    return np.zeros((0, size), np.int64)


def _heads(model: Tensors, texts: Sequence[str] | Array, settings: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """Return the first window of each text, int64[n, window]; an empty text is one unknown token."""
    size = int(settings["window"])
    numbers = _Numbers(model, settings)
    made = np.stack([_filled(numbers(str(t)), size) for t in texts]) if len(texts) else _none(size)
    made[:, 0] = np.where(made[:, 0] == PADDING, UNKNOWN, made[:, 0])
    return made


def _windows(
    model: Tensors, texts: Array, settings: Mapping[str, Any]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return all windows of texts and what follows each of their tokens, both int64[n, window].

    Windows of a text follow each other without a gap, and none holds tokens of two texts; where a text ends there is
    nothing to predict (`NO_TARGET`).
    """
    size = int(settings["window"])
    numbers_of = _Numbers(model, settings)
    x, y = [_none(size)], [_none(size)]
    for text in texts:
        numbers = numbers_of(str(text))
        count = max(0, numbers.size - 1)
        if not count:
            continue
        rows = -(-count // size)
        x.append(_filled(numbers[:-1], rows * size).reshape(rows, size))
        y.append(_filled(numbers[1:], rows * size, NO_TARGET).reshape(rows, size))
    return np.concatenate(x), np.concatenate(y)


def build(
    shape: ModelShape, model: str, embedding: int, hidden: int, layers: int, heads: int, dropout: float, **_: object
) -> torch.nn.Module:
    """Return a module that says of windows int64[n, window] what follows each token, or which class the text has."""
    if model == "transformer":
        if hidden % heads:
            raise RecipeError(f"hidden is {hidden}, and {heads} heads do not divide it: give a multiple of heads")
        return _transformer(shape, hidden, layers, heads, dropout)
    return _lstm(shape, embedding, hidden, layers, dropout)


def _answer(shape: ModelShape, width: int) -> torch.nn.Module:
    """Return the last layer: outputs at each place, or of the mean over the places that hold a token."""
    from torch import nn

    class Answer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(width, shape.outputs)

        def forward(self, made: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            if shape.task is not Task.NEXT_TOKEN:
                there = (tokens != PADDING).unsqueeze(2).to(made.dtype)
                made = (made * there).sum(1) / there.sum(1).clamp(min=1)
            said: torch.Tensor = self.linear(made)
            return said

    return Answer()


def _lstm(shape: ModelShape, embedding: int, hidden: int, layers: int, dropout: float) -> torch.nn.Module:
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(shape.tokens, embedding)
            self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
            self.dropout = nn.Dropout(dropout)
            self.answer = _answer(shape, hidden)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            made, _ = self.lstm(self.embedding(tokens))
            said: torch.Tensor = self.answer(self.dropout(made), tokens)
            return said

    return Recurrent()


def _transformer(shape: ModelShape, width: int, layers: int, heads: int, dropout: float) -> torch.nn.Module:
    import torch
    from torch import nn

    window = shape.sample[0]

    class Attentive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(shape.tokens, width)
            self.places = nn.Parameter(0.02 * torch.randn(window, width))
            block = nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            self.blocks = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), enable_nested_tensor=False)
            self.answer = _answer(shape, width)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.embedding(tokens) + self.places
            if shape.task is Task.NEXT_TOKEN:
                later = torch.ones(window, window, dtype=torch.bool, device=x.device).triu(1)
                made = self.blocks(x, mask=later)  # what fills a window up comes last, where no token looks
            else:
                made = self.blocks(x, src_key_padding_mask=tokens == PADDING)
            said: torch.Tensor = self.answer(made, tokens)
            return said

    return Attentive()


RECIPE: Final = TextRecipe(
    [_HERE / name for name in ("text.py", *TORCH_FILES)],
    build=build,
    task=None,
    inputs=TEXT,
    name="text",
    params=_PARAMETERS,
    record_params=None,
    description="The next character or word, or a class, of texts: an LSTM or a small transformer.",
)
