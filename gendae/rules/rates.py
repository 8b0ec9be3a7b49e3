"""Rates: how far each map moves at an update, and by which optimizer.

One optimizer holds a parameter group for each layer and direction, named f_l or g_l. A group has
its own learning rate and weight decay, and its gradient is clipped by its own norm, so that what
one layer does never depends on the gradient of another.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from gendae import checks
from gendae.registry import REGISTRY, register

PerLayer = float | Sequence[float]
#: A name, or {"class_path": PATH, "init_args": {..}} of a class of one's own.
Choice = str | dict[str, Any]

#: Constants of the original RMSprop: averaging and momentum; its stabiliser 1e-3 stands inside the
#: square root, torch's outside: the square root of it is the same where gradients are small.
RMSPROP = {"alpha": 0.95, "momentum": 0.9, "eps": math.sqrt(1e-3), "centered": True}
MOMENTUM = 0.9

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.AdamW, {}),
    "rmsprop": (torch.optim.RMSprop, RMSPROP),
    "sgd": (torch.optim.SGD, {"momentum": MOMENTUM}),
}

#: Torch's optimizers that no rule can step: why not.
UNFIT: dict[type[torch.optim.Optimizer], str] = {
    torch.optim.LBFGS: "it takes several looks at one loss for an update",
    torch.optim.SparseAdam: "it is for sparse gradients",
}


def linear(left: float) -> float:
    """The part of the decline that is left, from 1 to 0."""
    return left


def cosine(left: float) -> float:
    """Half a wave of a cosine, from 1 to 0 (Loshchilov and Hutter 2017)."""
    return 0.5 - 0.5 * math.cos(math.pi * left)


def constant(left: float) -> float:
    """No decline."""
    return 1.0


DECLINES: dict[str, Callable[[float], float]] = {
    "linear": linear,
    "cosine": cosine,
    "constant": constant,
}


class Trained(Protocol):
    """What an optimizer moves: a layer, or the law around it."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """What learns."""


#: Encoders "f" and decoders "g", bottom first, each with the laws that learn with it.
Maps = Mapping[str, Sequence[Sequence[Trained]]]


@register
@dataclass(frozen=True)
class Rates:
    """Learning rates and what belongs to them.

    The rate at progress t is its value up to t = `hold`, and then its value times d(u), where
    u = (1 - t) / (1 - hold) is the part of the decline that is left.

    Args:
        f, g: learning rates of encoders and decoders; a number, or one for each layer.
        decay_f, decay_g: weight decay, likewise; decoupled for "adam", a term of the gradient for
            others.
        feedback, decay_feedback: those of feedback that learns beside them, bottom encoder first
            and bottom decoder last.
        hold: fraction of training at constant rates.
        optimizer: "adam" (AdamW), "rmsprop" (centred, momentum 0.9: the original experiments of
            Lee 2018), "sgd" (momentum 0.9), the path of a class such as torch.optim.NAdam, or
            {"class_path": PATH, "init_args": {..}}.
        clip: largest norm of the gradient of one layer and direction; longer ones are scaled down.
        decline: d: "linear", "cosine", "constant", the path of a function of u, or of a class
            whose instances are such functions, with its init_args.

    Raises:
        ValueError: for negative or NaN numbers, hold outside [0, 1], unknown names, and paths that
            cannot be imported; in training, for lists of a wrong length.

    Example:
        >>> rates = Rates(f=1e-3, g=[1e-3, 3e-3], hold=0.5)
        >>> [rates.factor(progress) for progress in (0.0, 0.5, 0.75, 1.0)]
        [1.0, 1.0, 0.5, 0.0]
        >>> Rates(optimizer="adagrad")    # its class path would do: torch.optim.Adagrad
        Traceback (most recent call last):
        ValueError: rates.optimizer='adagrad' is unknown; accepted: adam, rmsprop, sgd, class path
    """

    f: PerLayer = 1e-3
    g: PerLayer = 1e-3
    decay_f: PerLayer = 0.0
    decay_g: PerLayer = 0.0
    feedback: PerLayer = 1e-3
    decay_feedback: PerLayer = 0.0
    hold: float = 0.0
    optimizer: Choice = "adam"
    clip: float | None = None
    decline: Choice = "linear"

    def __post_init__(self) -> None:
        for name in ("f", "g", "decay_f", "decay_g", "feedback", "decay_feedback"):
            for value in _numbers(f"rates.{name}", getattr(self, name)):
                checks.at_least(f"rates.{name}", value, 0.0)

        if not 0.0 <= self.hold <= 1.0:
            raise ValueError(f"rates.hold={self.hold}: a fraction of training in [0, 1] is needed")
        if self.clip is not None:
            checks.at_least("rates.clip", self.clip, 0.0, strict=True)

        self._optimizer()
        self._decline()

    @classmethod
    def check_description(cls, arguments: Mapping[str, Any]) -> None:
        """Raise a ValueError where a file names code: importing or calling it would run it.

        Torch's optimizers are accepted, and classes that the user has registered.
        """
        for name, known in (("optimizer", OPTIMIZERS), ("decline", DECLINES)):
            if name not in arguments:
                continue

            path, _ = _path(f"rates.{name}", arguments[name])
            of_torch = name == "optimizer" and re.fullmatch(r"torch\.optim\.\w+", path)
            if not (path in known or of_torch or _is_registered(path)):
                raise ValueError(
                    f"rates.{name}={path!r}: a file may not name code to be run, unless "
                    "gendae.register was used on it; or give rates=Rates(..) yourself"
                )

    # -- rates now -----------------------------------------------------------------------------

    def factor(self, progress: float) -> float:
        """Learning rates now, as a fraction of the initial ones."""
        left = 1.0 - progress
        if left >= 1.0 - self.hold:
            return 1.0

        return self._decline()(max(left, 0.0) / (1.0 - self.hold))

    def set(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Give every group of the optimizer its rate now."""
        factor = self.factor(progress)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def clip_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Scale down the gradient of each group that is longer than `clip`."""
        if self.clip is None:
            return

        for group in optimizer.param_groups:
            clip_grad_norm_(group["params"], self.clip)

    # -- the optimizer -------------------------------------------------------------------------

    def check(self, maps: Maps) -> None:
        """Raise a ValueError unless there is one rate, or one for each layer."""
        for direction, layers in maps.items():
            for name in (direction, f"decay_{direction}"):
                checks.per_layer(f"rates.{name}", getattr(self, name), len(layers))

    def optimizer_of(self, maps: Maps) -> torch.optim.Optimizer:
        """The optimizer over the maps of each direction, bottom layer first."""
        groups = [
            group for direction in maps for group in self._groups(direction, maps[direction])
        ]
        cls, options = self._optimizer()

        if cls is torch.optim.AdamW and "fused" not in options:
            device = next(p for group in groups for p in group["params"]).device
            options = {**options, "fused": device.type in ("cpu", "cuda")}

        try:
            return cls(groups, **options)
        except (TypeError, ValueError) as error:  # Muon, say, is for matrices only
            raise ValueError(f"rates.optimizer={self.optimizer!r}: {error}") from None

    def _groups(
        self, direction: str, layers: Sequence[Sequence[Trained]]
    ) -> Iterator[dict[str, Any]]:
        rates = checks.per_layer(f"rates.{direction}", getattr(self, direction), len(layers))
        decay = getattr(self, f"decay_{direction}")
        decays = checks.per_layer(f"rates.decay_{direction}", decay, len(layers))

        for level, parts in enumerate(layers, 1):
            yield {
                "params": [parameter for part in parts for parameter in part.parameters()],
                "lr": rates[level - 1],
                "initial_lr": rates[level - 1],
                "weight_decay": decays[level - 1],
                "name": f"{direction}_{level}",
            }

    # -- names and class paths -----------------------------------------------------------------

    def _optimizer(self) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
        path, options = _path("rates.optimizer", self.optimizer)
        if path in OPTIMIZERS:
            cls, usual = OPTIMIZERS[path]
            return cls, {**usual, **options}

        cls = _imported("rates.optimizer", path, OPTIMIZERS)
        if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"rates.optimizer={path!r} is no subclass of torch.optim.Optimizer"
            )
        check_optimizer("rates.optimizer", cls)
        return cls, options

    def _decline(self) -> Callable[[float], float]:
        path, options = _path("rates.decline", self.decline)
        if path in DECLINES:
            return DECLINES[path]

        decline = _imported("rates.decline", path, DECLINES)
        if isinstance(decline, type):
            decline = decline(**options)
        if not callable(decline):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"rates.decline={path!r} is no function of the part that is left"
            )
        return decline


def check_optimizer(name: str, cls: type[torch.optim.Optimizer]) -> None:
    """Raise a ValueError for a class of optimizers that cannot make a rule's updates."""
    for unfit, why in UNFIT.items():
        if issubclass(cls, unfit):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"{name}: {cls.__name__} cannot be used: {why}"
            )


def _is_registered(path: str) -> bool:
    """Whether a path is that of a class that files may name."""
    cls = REGISTRY.get(path.rpartition(".")[2])
    return cls is not None and f"{cls.__module__}.{cls.__qualname__}" == path


def _numbers(name: str, value: PerLayer) -> Sequence[float]:
    if isinstance(value, int | float):
        return [value]

    return checks.several(name, value)


def _path(name: str, choice: Choice) -> tuple[str, dict[str, Any]]:
    """The name or class path of a choice, and its arguments."""
    if isinstance(choice, str):
        return choice, {}

    if not (isinstance(choice, Mapping) and isinstance(choice.get("class_path"), str)):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"{name}={choice!r}: class_path, and init_args where needed, are accepted"
        )
    return choice["class_path"], dict(choice.get("init_args") or {})


def _imported(name: str, path: str, accepted: dict[str, Any]) -> Any:  # noqa: ANN401
    """What a path such as torch.optim.NAdam stands for."""
    module, _, last = path.rpartition(".")
    if not module:
        known = ", ".join(accepted)
        raise ValueError(f"{name}={path!r} is unknown; accepted: {known}, class path")

    try:
        return getattr(import_module(module), last)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name}={path!r} cannot be imported: {error}") from None
