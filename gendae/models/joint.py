"""Joint stacks: several modalities, each with its own layer pairs, joined by a top stack.

x = (x^(1), .., x^(N));  h_J^(t) is the code of modality t.
h_J = (h_J^(1), .., h_J^(N)) is what the top stack models.

A label is a modality whose stack is the identity on one-hot rows: supervised learning is the case
of two modalities (2014, section 3), unsupervised learning that of one. A joint stack is a `Stack`
over the concatenated x, so that learning rules, inference, samplers and files serve it unchanged;
with one modality it is that modality's stack.
Source: Bengio 2014, sections 3 and 4, Figures 4 and 5.
"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Protocol, TypeGuard, cast

import torch
from torch import Tensor

from gendae import checks
from gendae.laws import Law
from gendae.layers.pair import Pair
from gendae.models.modalities import (
    Junction,
    Laws,
    Masked,
    Modality,
    side_by_side,
)
from gendae.models.recurrent import RecurrentPair
from gendae.models.settings import Settings
from gendae.models.stack import Stack
from gendae.priors.base import Prior
from gendae.registry import register

BATCH = 1000  # examples computed at a time


@register
class JointStack(Stack):
    """Named modalities under one top stack.

    Args:
        modalities: by name, in the order of their slices of x. A modality with fewer pairs than
            others passes its code up unchanged.
        top: the pairs above the codes, the first of them a `Junction` (with one modality, a Pair);
            if empty, the prior alone models the codes.
        prior: P(h_L); the paper's diagonal Gaussian if None.
        settings: see `Stack`.

    Raises:
        ValueError: without modalities, or if widths do not match.

    Example:
        >>> from gendae.layers.affine import Affine
        >>> image = Modality(8, "pixels", [Pair(Affine(8, 4, "tanh"), Affine(4, 8, "sigmoid"))])
        >>> top = Junction(Affine(4 + 3 + 2, 5, "tanh"), Affine(5, 4 + 3))          # two mask bits
        >>> joint = JointStack({"image": image, "label": Modality(3, "onehot")}, [top])
        >>> joint.predict({"image": torch.rand(2, 8)}, "label").sum(1).round()      # Algorithm 4
        tensor([1., 1.])
        >>> joint.join({"face": torch.rand(2, 8)})
        Traceback (most recent call last):
        ValueError: 'face' is no modality of this model; it has image, label
    """

    ARRAYS = (
        *Stack.ARRAYS,
        "join",
        "lower",
        "climb",
        "loop",
        "x_of",
        "predict",
    )

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        top: Sequence[Junction | Pair] = (),
        prior: Prior | None = None,
        settings: Settings | None = None,
    ) -> None:
        if not modalities:
            raise ValueError("a JointStack needs at least one modality")

        members = list(checks.named("modalities", modalities).values())
        top = checks.several("top", top)
        _check_top(top, len(members))
        _check_latents(members)

        widths = [m.code_width for m in members]
        levels = zip_longest(*(m.pairs for m in members))  # None above a modality's own pairs
        below = [side_by_side(pairs, widths) for pairs in levels]

        above = [part.pair(members) if isinstance(part, Junction) else part for part in top]

        super().__init__(*below, *above, prior=prior, settings=settings)
        self.modalities = dict(modalities)
        self.top = top
        self.level = len(below)

        for level in range(self.level + 1):
            self._register_owner(level)

    def _register_owner(self, level: int) -> None:
        """Keep in a buffer to which modality each element of h_level belongs."""
        widths = torch.tensor(self.widths(level))
        owner = torch.arange(len(widths)).repeat_interleave(widths)
        self.register_buffer(f"owner_{level}", owner, persistent=False)

    # -- names, slices and masks ------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Names of the modalities."""
        return list(self.modalities)

    @property
    def labels(self) -> list[str]:
        """Names of the modalities that hold one-hot labels."""
        return [name for name, modality in self.modalities.items() if modality.kind == "onehot"]

    @property
    def latents(self) -> list[str]:
        """Names of the modalities that no data hold; they come last."""
        return [name for name, modality in self.modalities.items() if modality.kind == "latent"]

    @property
    def junction(self) -> Pair | None:
        """The pair with missingness inputs; None with one modality, or without a top stack."""
        if self.level < self.depth and isinstance(self.pairs[self.level].f, Masked):
            return self.pairs[self.level]

        return None

    def widths(self, level: int = 0) -> list[int]:
        """Widths of the modalities' slices of h_level, level <= J (`self.level`)."""
        if not 0 <= level <= self.level:
            raise ValueError(f"level={level}: modalities are apart at levels 0 .. {self.level}")

        return [modality.width_at(level) for modality in self.modalities.values()]

    def laws(self, level: int) -> Laws:
        """Laws of the slices of h_level, level <= J, around their predictions."""
        laws = [modality.law_at(level) for modality in self.modalities.values()]
        return Laws(laws, self.widths(level))

    def law(self, level: int) -> Law:
        """See `Stack.law`; where modalities are apart, each slice has its own."""
        if level <= self.level and len(self.names) > 1:
            return self.laws(level)

        return super().law(level)

    def index(self, name: str) -> int:
        """Position of a modality.

        Raises:
            ValueError: for an unknown name; lists those that exist.
        """
        if name not in self.modalities:
            raise ValueError(
                f"{name!r} is no modality of this model; it has {', '.join(self.names)}"
            )

        return self.names.index(name)

    def separate(self, h: Tensor, level: int = 0) -> dict[str, Tensor]:
        """The modalities' slices of h_level, by name."""
        return dict(zip(self.names, h.split(self.widths(level), -1), strict=True))

    def replace(self, h: Tensor, level: int, values: Mapping[str, Tensor]) -> Tensor:
        """h_level with other values in the slices of some modalities."""
        slices = self.separate(h, level) | dict(values)
        return torch.cat(list(slices.values()), -1)

    def spread(self, observed: Tensor, level: int = 0) -> Tensor:
        """A mask of modalities, (batch, N), as one of h_level's elements, (batch, width)."""
        return observed[..., self.get_buffer(f"owner_{level}")]

    def described(self) -> str:
        """Names, widths and kinds in one line."""
        return ", ".join(f"{name} {m.width} {m.kind}" for name, m in self.modalities.items())

    def condition(self, name: str, x: Tensor, labels: Tensor | None) -> Tensor:
        """What a prior of p(h_L | c) is told of examples: the code of the modality of that name.

        Raises:
            ValueError: for an unknown name.
        """
        self.index(name)
        return self.separate(self.lower(x)[-1], self.level)[name]

    # -- values by name ---------------------------------------------------------------------------

    def join(self, given: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """x, (batch, width), 0 where it is missing, and which modalities are observed, (batch, N).

        Args:
            given: x^(t) by name, (batch, width of x^(t)); labels may be class indices. A row of
                NaN, or the label -1, is missing.

        Raises:
            ValueError: for unknown names, nothing given at all, wrong widths or values, different
                numbers of rows.
        """
        batches = self._batches(given)
        rows = len(next(iter(batches.values())))

        values = []
        observed = []
        for name in self.names:
            value, here = self._read(name, batches.get(name), rows)
            values.append(value)
            observed.append(here)

        mask = torch.stack(observed, 1)
        self._check_rows(mask)

        return torch.cat(values, 1).to(self.device), mask.to(self.device)

    def _batches(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The given values as tensors; a ValueError unless they are batches of one length."""
        for name in given:
            self.index(name)

        if not given:
            raise ValueError(
                f"all modalities are missing; give at least one of {', '.join(self.names)}"
            )

        batches = {name: checks.tensor(value) for name, value in given.items()}
        for name, value in batches.items():
            if value.ndim == 0:
                raise ValueError(
                    f"{name} is a single number; a batch of values is needed "
                    f"(modalities: {self.described()})"
                )

        lengths = {name: len(value) for name, value in batches.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"given values have different numbers of rows: {lengths}")

        return batches

    def _read(self, name: str, raw: Tensor | None, rows: int) -> tuple[Tensor, Tensor]:
        """x^(t), (rows, width), 0 where it is missing, and which rows hold it, (rows,)."""
        modality = self.modalities[name]
        value = torch.zeros(rows, modality.width, dtype=self.dtype)
        if raw is None:
            return value, torch.zeros(rows, dtype=torch.bool)

        raw = raw.cpu()
        here = present(raw)
        try:
            value[here] = modality.values(name, raw[here]).to(self.dtype)
        except ValueError as error:
            raise ValueError(f"{error} (modalities: {self.described()})") from None

        return value, here

    def _check_rows(self, observed: Tensor) -> None:
        """Raise a ValueError unless each row holds some modality."""
        empty = (~observed.any(1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                f"all modalities are missing in {len(empty)} rows (first: row {empty[0]}); "
                f"at least one of {', '.join(self.names)} is needed in each"
            )

    # -- up, and prediction -----------------------------------------------------------------------

    def feedforward(self, x: Tensor, observed: Tensor | None = None) -> tuple[Tensor, ...]:
        """h_0 .. h_L; modalities that are not observed are turned off where the top begins."""
        h = self.lower(x)
        return (*h, *self.climb(h[-1], observed))

    def lower(self, x: Tensor) -> tuple[Tensor, ...]:
        """h_0 .. h_J: the modalities' own codes."""
        return self.up(x, stop=self.level)

    def climb(self, codes: Tensor, observed: Tensor | None = None) -> tuple[Tensor, ...]:
        """h_{J+1} .. h_L from h_J, (batch, width).

        `observed`, (batch, N) boolean, is the missingness input.
        """
        if observed is None or self.junction is None:
            return self.up(codes, self.level)[1:]

        f = cast(Masked, self.junction.f)
        mean = f(codes, observed)
        joined = self.junction.recognition.transmit(mean)

        return self.up(joined, self.level + 1)

    def loop(self, codes: Tensor, observed: Tensor | None = None) -> Tensor:
        """The top's reconstruction of the codes: h_J up and down again, without noise."""
        top = (codes, *self.climb(codes, observed))[-1]
        return self.down(top, stop=self.level)[0]

    def x_of(self, codes: Tensor) -> Tensor:
        """x from h_J."""
        return self.down(codes, self.level)[0]

    @torch.no_grad()
    def predict(self, given: Mapping[str, Tensor], name: str) -> Tensor:
        """x^(t) given other modalities, in one pass through missingness inputs.

        For a label, that is its probabilities.
        Source: Bengio 2014, Algorithm 4. `complete` iterates instead (Algorithm 6).

        Args:
            given: see `join`.
            name: t, the modality that is predicted; its own value in `given` is left out.

        Raises:
            ValueError: see `join`.
        """
        self.index(name)
        if self.level == self.depth:
            raise ValueError(
                "the model has no top stack that could predict one modality from others; "
                "use `complete`, which its prior serves"
            )

        others = {key: value for key, value in given.items() if key != name}
        x, observed = self.join(others)

        predictions = []
        for rows, mask in zip(x.split(BATCH), observed.split(BATCH), strict=True):
            codes = self.lower(rows)[-1]
            predictions.append(self._guess(name, codes, mask))

        return torch.cat(predictions)

    @torch.no_grad()
    def prediction_errors(self, x: Tensor, there: Tensor) -> dict[str, Tensor]:
        """Mean error of each modality, predicted from all others in one pass, over its rows.

        Error rates of labels, squared errors per element of the rest; latents have none.

        Args:
            x: (batch, width).
            there: which modalities are observed, (batch, N).
        """
        codes = self.lower(x)[-1]
        truth = self.separate(x)

        errors = {}
        for t, name in enumerate(self.names):
            if name in self.latents:
                continue

            others = there.clone()
            others[:, t] = False
            guess = self._guess(name, codes, others)

            if name in self.labels:
                error = (guess.argmax(1) != truth[name].argmax(1)).to(x.dtype)
            else:
                error = (guess - truth[name]).square().mean(1)

            observed = there[:, t]
            errors[name] = (error * observed).sum() / observed.sum().clamp_min(1)

        return errors

    def _guess(self, name: str, codes: Tensor, observed: Tensor) -> Tensor:
        """x^(t) from the codes of the observed modalities, through the top stack and down."""
        return self.separate(self.x_of(self.loop(codes, observed)))[name]


# -- checks of a joint stack's parts --------------------------------------------------------------


def _check_top(top: Sequence[Junction | Pair], modalities: int) -> None:
    """Raise a ValueError unless the top's first part joins the modalities, and no other does."""
    if top and modalities > 1 and not isinstance(top[0], Junction):
        raise ValueError(
            f"top[0] is a {type(top[0]).__name__}; a Junction joins {modalities} modalities"
        )

    if any(isinstance(part, Junction) for part in top[1:]):
        raise ValueError(
            "top holds a Junction above its first pair; modalities are joined once, "
            "Pairs stand above"
        )


def _check_latents(members: Sequence[Modality]) -> None:
    """Raise a ValueError unless latent modalities come last, after one that data hold."""
    latent = [member.kind == "latent" for member in members]
    if latent != sorted(latent) or all(latent):
        raise ValueError("latent modalities come after those that data hold")


# -- data of several modalities -------------------------------------------------------------------


def present(value: Tensor) -> Tensor:
    """Which rows hold a value, (batch,); a row of NaN and the class index -1 hold none."""
    if value.is_floating_point():
        missing = torch.isnan(value)
        if value.ndim > 1:
            missing = missing.flatten(1).all(1)

        return ~missing

    if value.ndim == 1:
        return value.long() != -1

    return torch.ones(len(value), dtype=torch.bool)


def images_of(stack: Stack, x: Tensor) -> tuple[Tensor, tuple[int, ...] | None]:
    """The images in x and their shape: of several modalities, those of the first with one."""
    shapes = stack.facts.get("shapes")
    if shapes is not None and isinstance(stack, JointStack):
        return _images_of_modalities(stack, x, shapes)

    shape = stack.facts.get("shape")
    if shape is None:
        return x, None

    return x, tuple(shape)


def channels_of(stack: Stack, modality: str | None = None) -> int:
    """How many channels the images of a stack have, or of one of its modalities; 1 of others."""
    shape = stack.facts.get("shape")
    if modality is not None:
        shape = stack.facts.get("shapes", {}).get(modality)

    return 1 if shape is None else checks.ImageShape.of(shape).channels


def label_modalities(stack: JointStack) -> tuple[str, str]:
    """Names of the modality that labels are predicted from, and of the labels.

    Raises:
        ValueError: unless there is one modality of labels, and another.
    """
    others = [name for name in stack.names if name not in stack.labels]
    if len(stack.labels) != 1 or not others:
        raise ValueError(
            f"the model has the modalities {stack.described()}; labels are predicted where one "
            "of several is onehot; use `gendae complete` for others"
        )
    return others[0], stack.labels[0]


def kind_of(stack: Stack) -> str:
    """What x of `images_of` is: "image", "points", ..; see `gendae.data.base.Data`."""
    facts = stack.facts
    if facts.get("shapes") and isinstance(stack, JointStack):
        return "image"
    if "kind" in facts:
        return facts["kind"]
    if isinstance(stack.pairs[0], RecurrentPair):
        return "sequence"

    # files of version 0.1 do not say
    if list(facts.get("shape", (1, stack.sizes[0]))) == [1, 2]:
        return "points"
    return "image"


def _images_of_modalities(
    stack: JointStack, x: Tensor, shapes: Mapping[str, Sequence[int]]
) -> tuple[Tensor, tuple[int, ...] | None]:
    """See `images_of`; x itself if no modality has a shape."""
    if not shapes:
        return x, None

    name = next(name for name in stack.names if name in shapes)
    return stack.separate(x)[name], tuple(shapes[name])


class _OfModalities(Protocol):
    """A data set of modalities: their widths by name, and splits (x, y, observed)."""

    modalities: dict[str, int]

    def split(self, name: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The split of this name."""


def _has_modalities(data: object) -> TypeGuard[_OfModalities]:
    return hasattr(data, "modalities")


def check_modalities(stack: Stack, data: object, handles_missing: bool) -> None:
    """Raise a ValueError unless a data set's modalities are those of a joint stack.

    Their order and their kinds must agree too.
    """
    if not isinstance(stack, JointStack) or not _has_modalities(data):
        return

    expected = {name: m.width for name, m in stack.modalities.items() if name not in stack.latents}
    if list(data.modalities.items()) != list(expected.items()):
        raise ValueError(
            f"the data have the modalities {data.modalities}, the model {expected} (name: width); "
            "the same ones in the same order are needed"
        )

    for split in ("train", "valid"):
        x, _, there = data.split(split)
        if there is None:
            there = torch.ones(len(x), len(expected), dtype=torch.bool)
        parts = x.split(list(expected.values()), 1)

        for t, name in enumerate(expected):
            observed = there[:, t]
            stack.modalities[name].values(f"{name} of the {split} data", parts[t][observed])

        if not handles_missing and not bool(there.all()):
            raise ValueError(
                f"modalities are missing in the {split} data, which this rule would take for "
                "zeros; accepted: JointTargetPropRule, or complete data"
            )
