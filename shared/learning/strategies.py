"""How the mean change of a round becomes the next model.

Sources: FedAvg, McMahan et al. (AISTATS 2017), algorithm 1; FedAvgM, Hsu, Qi, Brown (2019); FedAdagrad, FedYogi and
FedAdam, Reddi et al., Adaptive Federated Optimization (ICLR 2021), algorithm 2, whose symbols are kept: Delta_t is the
mean change, m_t and v_t the moments, tau the degree of adaptivity, eta the server's learning rate; FedNova, Wang et al.
(NeurIPS 2020), eq. 7; q-FedAvg, Li et al., Fair Resource Allocation in Federated Learning (ICLR 2020), algorithm 2.
Shapes: changes and moments are float32[d], the model is float32[d] or float64[d] (its master values);
whether the mean is weighted was decided when the updates were weighed.

FedNova and q-FedAvg divide one sum by another. Only means of updates are opened, so the second sum is one coordinate
more: the tensor `SCALE` of the model holds ln s, with s about what a site's own number c_i is (its steps; its loss to
the power q), known to all sites before they train. A site sends its scaled change and, in the place of that tensor,
(c_i / s - 1) / `SCALE_UNIT`. From its mean follows the ratio mean(c_i) / s, by which the step is rescaled (s itself
cancels out) and s moves on. So the coordinate is small whatever the sites' numbers are.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from undersong.shared.documents import pointer
from undersong.shared.errors import FieldError, Invalid
from undersong.shared.learning import safetensors
from undersong.shared.learning.robust import KRUM, MEDIAN, TRIMMED_MEAN, RobustRule
from undersong.shared.names import hint

Vector = npt.NDArray[np.float32]
Master = npt.NDArray[np.floating]
State = dict[str, Vector]
Moment = Callable[[Vector, Vector, float], Vector]
SCALE: Final = "strategy.log_scale"
"""The model's tensor float32[1] in whose place sites send their own number."""
SCALE_UNIT: Final = 16.0
"""How many times the common scale one unit of that coordinate is: at the default bound, 257 times can be said."""
_LEAST_RATIO: Final = 1 / 64


class StrategyUnknown(Invalid):
    """No strategy has this name, or it does not take these parameters."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of strategies: which numbers it takes, that range as a text, and what it does."""

    allows: Callable[[float], bool]
    range: str
    description: str


@dataclass(frozen=True, slots=True)
class Strategy:
    """A server optimiser: its name, its parameters with defaults, the moments it keeps and one step of it.

    at_sites: the parameters of the recipe that it sets, from its own. rescale: the factor of the mean change, from the
    ratio of the mean of the sites' numbers to the scale that they knew. opens: what is opened beside the mean change.
    rule: what takes the place of the mean, from single updates. rests_on_norms: whether it promises that no update is
    larger than the clip norm, so that the engine has to prove it. buffered: whether sites train ahead of rounds, which
    collect the changes that are ready.
    """

    name: str
    description: str
    defaults: Mapping[str, float]
    moments: tuple[str, ...]
    update: Callable[[Vector, State, Mapping[str, float]], tuple[Vector, State]]
    at_sites: Callable[[Mapping[str, float]], dict[str, JsonValue]] = lambda _: {}
    rescale: Callable[[float], float] | None = None
    opens: str = "nothing"
    rule: RobustRule | None = None
    rests_on_norms: bool = False
    buffered: bool = False

    def step(
        self, previous: Master, mean_delta: Vector, state: State, params: Mapping[str, object] | None = None
    ) -> tuple[Master, State]:
        """(next model, next state); an empty state is a fresh one. Raises `StrategyUnknown` for bad parameters."""
        settings = self.settings(params or {})
        if state and any(name not in state or state[name].shape != mean_delta.shape for name in self.moments):
            raise StrategyUnknown("the strategy's state belongs to another strategy or model")
        change, after = self.update(mean_delta, state, settings)
        return previous + change, after

    def settings(self, params: Mapping[str, object]) -> dict[str, float]:
        """Return the parameters with defaults filled in.

        Raises `StrategyUnknown` with every fault; a fault's path is the JSON pointer to it among the parameters.
        """
        faults = [
            FieldError(pointer([name]), f"is not a parameter of this strategy{hint(name, self.defaults)}")
            for name in params
            if name not in self.defaults
        ]
        made = dict(self.defaults)
        for name, value in params.items():
            if name not in self.defaults:
                continue
            if not isinstance(value, int | float) or isinstance(value, bool) or not _allowed(name, float(value)):
                faults.append(FieldError(pointer([name]), f"must be a number in {PARAMETERS[name].range}"))
            else:
                made[name] = float(value)
        if faults:
            raise StrategyUnknown(f"strategy {self.name} does not take these parameters", errors=faults)
        return made


def strategy_named(name: str) -> Strategy:
    """Return the strategy of this name; raises `StrategyUnknown`."""
    try:
        return STRATEGIES[name]
    except KeyError:
        raise StrategyUnknown(f"strategy {name!r} is unknown{hint(name, STRATEGIES)}") from None


def step_model(
    strategy: Strategy,
    previous: Master,
    mean_delta: Vector,
    state: State,
    params: Mapping[str, object],
    parameters: int,
    scale_at: int | None = None,
) -> tuple[Master, State]:
    """Return a step for a whole vector: the optimiser moves the first `parameters` coordinates, buffers take the
    mean.

    scale_at: the coordinate of the tensor `SCALE`; raises `StrategyUnknown` where the strategy needs one.
    """
    after = np.empty_like(previous)
    parts = ((0, previous[:parameters]), (parameters, previous[parameters:]))
    return after, step_into(after, strategy, parts, mean_delta, state, params, parameters, scale_at)


def step_into(
    after: Master,
    strategy: Strategy,
    previous: Iterable[tuple[int, Master]],
    mean_delta: Vector,
    state: State,
    params: Mapping[str, object],
    parameters: int,
    scale_at: int | None = None,
) -> State:
    """Write `step_model`'s vector into `after`, which may be `mean_delta` itself, and return the next state.

    previous: the vector's parts, each with its first coordinate, none with parameters and buffers both.
    """
    if any(moment.shape != (parameters,) for moment in state.values()):
        raise StrategyUnknown("the strategy's state belongs to another strategy or model")
    ratio = _ratio(strategy, mean_delta, scale_at)
    moments: State = {}
    for at, part in previous:
        place, delta = slice(at, at + part.size), mean_delta[at : at + part.size]
        if at >= parameters:
            after[place] = part + delta
            if ratio is not None and scale_at is not None and at <= scale_at < at + part.size:
                after[scale_at] = part[scale_at - at] + math.log(ratio)
            continue
        if ratio is not None and strategy.rescale is not None:
            delta = _scaled(strategy.rescale(ratio), delta)
        moved, kept = strategy.step(part, delta, {name: moment[place] for name, moment in state.items()}, params)
        for name, moment in kept.items():  # before `after`, in whose place they may lie
            moments.setdefault(name, np.empty(parameters, np.float32))[place] = moment
        after[place] = moved
    return moments


def _ratio(strategy: Strategy, mean_delta: Vector, scale_at: int | None) -> float | None:
    """Return the ratio by which the strategy rescales a step; None where it does not."""
    if strategy.rescale is None:
        return None
    if scale_at is None:
        raise StrategyUnknown(no_scale(strategy.name))
    return max(1 + SCALE_UNIT * float(mean_delta[scale_at]), _LEAST_RATIO)  # only noise could make it less


def no_scale(strategy: str) -> str:
    """Say that a model was begun without what the strategy needs, and what to do."""
    return (
        f"the model has no tensor {SCALE}, which strategy {strategy} needs: leave model.version_id out, so that the "
        "job begins a model of its own, or take another strategy"
    )


def robust_rule(name: str) -> RobustRule | None:
    """Return the rule that takes the place of the mean under a strategy; None for a mean, or an unknown name."""
    strategy = STRATEGIES.get(name)
    return None if strategy is None else strategy.rule


def combined(name: str, updates: npt.NDArray[np.float32], params: Mapping[str, object]) -> Vector:
    """Return what a strategy's rule makes of single updates float32[n, d]; raises `StrategyUnknown`."""
    strategy = strategy_named(name)
    rule, settings = strategy.rule, strategy.settings(params)
    if rule is None or len(updates) < rule.least(settings):
        raise StrategyUnknown(f"strategy {name} makes nothing of {len(updates)} updates")
    return rule.combine(updates, settings)


def params_at_sites(name: str, params: Mapping[str, object]) -> dict[str, JsonValue]:
    """Return the parameters of the recipe that a strategy sets; none for one that is unknown or refuses its own."""
    try:
        strategy = strategy_named(name)
        return strategy.at_sites(strategy.settings(params))
    except StrategyUnknown:
        return {}


def save_state(state: State, masters: Master | None = None, metadata: Mapping[str, str] | None = None) -> bytes | None:
    """Return a job's state as a safetensors file: moments, and master values where there are; None without any."""
    arrays: dict[str, npt.NDArray[Any]] = {**state} | ({} if masters is None else {_MASTERS: masters})
    return safetensors.write(arrays, metadata) if arrays else None


def load_state(data: bytes | None) -> tuple[State, Master | None]:
    """Return moments and master values from `save_state`; raises `BadModelFile`."""
    if data is None:
        return {}, None
    arrays = safetensors.read(data)
    masters = arrays.pop(_MASTERS, None)
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}, masters


def _fedavg(delta: Vector, state: State, p: Mapping[str, float]) -> tuple[Vector, State]:  # noqa: ARG001
    return _scaled(p["eta"], delta), {}


def _fedavgm(delta: Vector, state: State, p: Mapping[str, float]) -> tuple[Vector, State]:
    velocity = delta if not state else _scaled(p["momentum"], state["velocity"]) + delta
    return _scaled(p["eta"], velocity), {"velocity": velocity}


def _adaptive(second: Moment) -> Callable[[Vector, State, Mapping[str, float]], tuple[Vector, State]]:
    def update(delta: Vector, state: State, p: Mapping[str, float]) -> tuple[Vector, State]:
        tau = p["tau"]
        before = state or {"m": np.zeros_like(delta), "v": np.full_like(delta, tau * tau)}  # v_-1 >= tau^2, as printed
        m = _scaled(p["beta_1"], before["m"]) + _scaled(1 - p["beta_1"], delta)
        v = second(before["v"], delta * delta, p.get("beta_2", 0.0))
        step: Vector = np.divide(m, np.sqrt(v) + np.float32(tau), dtype=np.float32)
        return _scaled(p["eta"], step), {"m": m, "v": v}

    return update


def _adagrad(v: Vector, square: Vector, beta: float) -> Vector:  # noqa: ARG001
    return v + square


def _yogi(v: Vector, square: Vector, beta: float) -> Vector:
    return v - _scaled(1 - beta, square * np.sign(v - square))


def _adam(v: Vector, square: Vector, beta: float) -> Vector:
    return _scaled(beta, v) + _scaled(1 - beta, square)


def _scaled(factor: float, vector: Vector) -> Vector:
    return np.multiply(vector, np.float32(factor))


def _allowed(name: str, value: float) -> bool:
    return math.isfinite(value) and PARAMETERS[name].allows(value)


def _whole(value: float) -> bool:
    return 1 <= value <= 1000 and value.is_integer()


PARAMETERS: Final[Mapping[str, Parameter]] = {
    "eta": Parameter(lambda x: 0 < x <= 1000, "0 < x <= 1000", "The server's learning rate"),
    "momentum": Parameter(lambda x: 0 <= x < 1, "0 <= x < 1", "Share of the last step that is added to the next"),
    "beta_1": Parameter(lambda x: 0 <= x < 1, "0 <= x < 1", "Decay of the mean of changes"),
    "beta_2": Parameter(lambda x: 0 <= x < 1, "0 <= x < 1", "Decay of the mean of squared changes"),
    "tau": Parameter(lambda x: 0 < x <= 1, "0 < x <= 1", "Degree of adaptivity: smaller adapts more"),
    "trim": Parameter(lambda x: 0.01 <= x < 0.5, "0.01 <= x < 0.5", "Share left out at either end of each coordinate"),
    "attackers": Parameter(_whole, "whole numbers from 1 to 1000", "How many sites may send what they like"),
    "kept": Parameter(_whole, "whole numbers from 1 to 1000", "How many updates the mean is taken of"),
    "buffer": Parameter(_whole, "whole numbers from 1 to 1000", "How many sites' changes a round waits for"),
    "max_staleness": Parameter(
        _whole, "whole numbers from 1 to 1000", "How many versions old a change may be when it is collected"
    ),
    "q": Parameter(lambda x: 0 <= x <= 10, "0 <= x <= 10", "How much sites of larger loss count for more; 0: fedavg"),
}
_EACH: Final = "each update, to the aggregator"
_MASTERS: Final = "undersong.masters"
_ADAPTIVE: Final = {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}
_MOMENTS: Final = ("m", "v")
STRATEGIES: Final[Mapping[str, Strategy]] = {
    s.name: s
    for s in (
        Strategy("fedavg", "The mean change, times eta.", {"eta": 1.0}, (), _fedavg),
        Strategy("fedavgm", "Momentum over rounds.", {"eta": 1.0, "momentum": 0.9}, ("velocity",), _fedavgm),
        Strategy(
            "fedadagrad",
            "Adagrad over rounds.",
            {"eta": 0.1, "beta_1": 0.0, "tau": 1e-3},
            _MOMENTS,
            _adaptive(_adagrad),
        ),
        Strategy("fedyogi", "Yogi over rounds.", _ADAPTIVE, _MOMENTS, _adaptive(_yogi)),
        Strategy("fedadam", "Adam over rounds, without bias correction.", _ADAPTIVE, _MOMENTS, _adaptive(_adam)),
        Strategy(
            "fednova",
            "Each site's change is divided by its number of steps, and the mean multiplied by their mean: sites that "
            "take more steps do not count for more than their weight.",
            {"eta": 1.0},
            (),
            _fedavg,
            at_sites=lambda _: {"scaled_by": "steps"},
            rescale=lambda ratio: ratio,
            opens="the mean number of steps",
        ),
        Strategy(
            "qfedavg",
            "Each site's change is multiplied by its loss to the power q: losses of sites become more alike.",
            {"eta": 1.0, "q": 1.0},
            (),
            _fedavg,
            at_sites=lambda p: {"scaled_by": "loss", "fairness": p["q"]},
            rescale=lambda ratio: 1 / ratio,
            opens="the mean over sites of the step's divisor, which follows from losses and norms",
        ),
        Strategy(
            "fedbuff",
            "The mean of changes that sites made at their own pace, each weighed by 1 / sqrt(1 + the versions since).",
            {"eta": 1.0, "buffer": 3.0, "max_staleness": 10.0},
            (),
            _fedavg,
            buffered=True,
        ),
        Strategy(
            "bounded_mean",
            "The mean change of updates whose norm is proved to be within update.clip_norm.",
            {"eta": 1.0},
            (),
            _fedavg,
            rests_on_norms=True,
        ),
        Strategy(
            "median", "The median of each coordinate over sites.", {"eta": 1.0}, (), _fedavg, opens=_EACH, rule=MEDIAN
        ),
        Strategy(
            "trimmed_mean",
            "The mean of each coordinate without its largest and smallest values.",
            {"eta": 1.0, "trim": 0.2},
            (),
            _fedavg,
            opens=_EACH,
            rule=TRIMMED_MEAN,
        ),
        Strategy(
            "krum",
            "The mean of the updates that lie closest to most others.",
            {"eta": 1.0, "attackers": 1.0, "kept": 1.0},
            (),
            _fedavg,
            opens=_EACH,
            rule=KRUM,
        ),
    )
}
