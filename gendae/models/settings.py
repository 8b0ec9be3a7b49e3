"""What stands beside a stack's weights: what it is used with, and how it was trained."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypedDict

from gendae import checks
from gendae.registry import build, register

if TYPE_CHECKING:
    from gendae.completion.completer import Completer
    from gendae.completion.inpainting import Inpainter
    from gendae.models.settling import Settling
    from gendae.models.stack import Stack
    from gendae.sampling.samplers import Sampler


@register
@dataclass(frozen=True)
class Settings:
    """Objects that a model is used with where the user names none; files keep them.

    A learning rule fills what is unset with its `DEFAULT_SETTINGS`, and overwrites nothing.

    Args:
        sampler: what `generate` draws with.
        inpainter: what `inpaint` fills in with.
        completer: what `complete` fills in with.
        samples: draws of stochastic units in validation, test and prediction.
        settling: the state that a classifier answers by; the feed-forward pass if None. The rule
            that trains it decides, see `TwoPhaseRule`.

    Example:
        >>> Settings(samples=10).or_else(Settings(samples=100, sampler="any")).samples
        10
    """

    sampler: Sampler | None = None
    inpainter: Inpainter | None = None
    completer: Completer | None = None
    samples: int | None = None
    settling: Settling | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, build(getattr(self, field.name)))
        if self.samples is not None:
            checks.whole("samples", self.samples, 1, checks.REPEATS)

    @classmethod
    def described(cls, plain: dict[str, Any]) -> Settings:
        """Settings from what a file says of them.

        Files of version 0.1 call the inpainter "inpainting", and hold the E-step's inference too.

        Raises:
            ValueError: for what settings cannot hold.
        """
        values = {name: value for name, value in plain.items() if name != "inference"}
        if "inpainting" in values:
            values["inpainter"] = values.pop("inpainting")

        return build({"type": cls.__name__, **values})

    def or_else(self, other: Settings) -> Settings:
        """These, with the others' in the place of those that are unset."""
        return replace(other, **self.chosen())

    def check(self, stack: Stack) -> None:
        """Raise a ValueError where these cannot work with a stack, before it is trained."""
        for part in (self.sampler, self.inpainter, self.settling):
            if part is not None:
                part.check(stack)

    def chosen(self) -> dict[str, Any]:
        """Those that are set, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


class Facts(TypedDict, total=False):
    """What a model remembers of its training, as plain data that files keep."""

    #: The class name of the rule, the seed, the command, and how long it took.
    rule: str
    seed: int
    command: str
    epochs: int
    updates: int
    seconds: float

    #: The data set as a description, the kind of its examples (see `Data`), height and width of
    #: its images, and those of each modality.
    dataset: dict[str, Any]
    kind: str
    shape: list[int]
    shapes: dict[str, list[int]]

    #: Scores, those of the tops among which one was chosen, and the model that this one began as.
    metrics: dict[str, float]
    prior_scores: dict[str, float]
    pretrained: str
