"""Joint stacks: several modalities, each with its own layer pairs, joined by a top stack over all their codes.

x = (x^(1), .., x^(N));  h_J^(t) is the code of modality t;  h_J = (h_J^(1), .., h_J^(N)) is what the top stack models.

A label is a modality whose stack is the identity on one-hot rows: supervised learning is the case of two modalities
(2014, section 3), unsupervised learning that of one. A joint stack is a `Stack` over the concatenated x, so that
learning rules, inference, samplers and files serve it as they are; with one modality it is that modality's stack.
Source: Bengio 2014, sections 3 and 4, Figures 4 and 5.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gendae import checks
from gendae.corruption import Corruption, RelativeNoise
from gendae.layers import Pair
from gendae.modalities import EachModality, Junction, Laws, Masked, Modality, side_by_side
from gendae.priors import Prior
from gendae.spec import register
from gendae.stack import Stack

BATCH = 1000  # examples computed at a time
RESERVED = (
    "path",
    "file",
    "args",
    "kwds",
    "converged",
    "residual",
)  # arrays and arguments of files of answers


@register
class JointStack(Stack):
    """Named modalities under one top stack.

    Args:
        modalities: by name, in the order of their slices of x. A modality with fewer pairs than others passes its code
            up unchanged.
        top: the pairs above the codes, the first of them a `Junction` (with one modality, a Pair); if empty, the prior
            alone models the codes.
        prior: P(h_L); the paper's diagonal Gaussian if None.

    Raises:
        ValueError: without modalities, or if widths do not match.

    Example:
        >>> from gendae.layers import Affine
        >>> image = Modality(8, "pixels", [Pair(Affine(8, 4, "tanh"), Affine(4, 8, "sigmoid"))])
        >>> top = Junction(Affine(4 + 3 + 2, 5, "tanh"), Affine(5, 4 + 3))          # two mask bits
        >>> joint = JointStack({"image": image, "label": Modality(3, "onehot")}, [top])
        >>> joint.predict({"image": torch.rand(2, 8)}, "label").sum(1).round()      # Algorithm 4
        tensor([1., 1.])
        >>> joint.join({"face": torch.rand(2, 8)})
        Traceback (most recent call last):
        ValueError: 'face' is no modality of this model; it has image, label
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        top: Sequence[Junction | Pair] = (),
        prior: Prior | None = None,
    ) -> None:
        members = list(modalities.values())
        if not members:
            raise ValueError("a JointStack needs at least one modality")
        taken = [name for name in modalities if name in RESERVED]
        if taken:
            raise ValueError(
                f"modality {taken[0]!r}: this name is taken in files of answers; accepted: any but "
                f"{', '.join(RESERVED)}"
            )
        level = max(len(m.pairs) for m in members)
        pairs = [
            side_by_side(
                [m.pairs[i] if i < len(m.pairs) else None for m in members],
                [m.code_width for m in members],
            )
            for i in range(level)
        ]
        if top and len(members) > 1 and not isinstance(top[0], Junction):
            raise ValueError(
                f"top[0] is a {type(top[0]).__name__}; a Junction joins {len(members)} modalities"
            )
        if any(isinstance(part, Junction) for part in top[1:]):
            raise ValueError(
                "top holds a Junction above its first pair; modalities are joined once, Pairs stand above"
            )
        kinds = [m.kind == "latent" for m in members]
        if kinds != sorted(kinds) or all(kinds):
            raise ValueError("latent modalities come after those that data hold")
        above = [part.pair(members) if isinstance(part, Junction) else part for part in top]
        super().__init__(*pairs, *above, prior=prior)
        self.modalities, self.top = dict(modalities), list(top)
        self.level = level
        for i in range(level + 1):  # which modality each element of h_i belongs to
            owner = torch.arange(len(members)).repeat_interleave(torch.tensor(self.widths(i)))
            self.register_buffer(f"owner_{i}", owner, persistent=False)

    # -- names, slices and masks ---------------------------------------------------------------------------

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
        """The pair that takes missingness inputs; None with one modality, or without a top stack."""
        pair = self.pairs[self.level] if self.level < self.depth else None
        return pair if pair is not None and isinstance(pair.f, Masked) else None

    def widths(self, level: int = 0) -> list[int]:
        """Widths of the modalities' slices of h_level, level <= J (`self.level`)."""
        if not 0 <= level <= self.level:
            raise ValueError(f"level={level}: modalities are apart at levels 0 .. {self.level}")
        return [
            m.pairs[level].f.in_features if level < len(m.pairs) else m.code_width
            for m in self.modalities.values()
        ]

    def laws(self, level: int) -> Laws:
        """Laws of the slices of h_level, level <= J, around what is predicted of them."""
        own = [
            m.pairs[level].observation if level < len(m.pairs) else m.law
            for m in self.modalities.values()
        ]
        return Laws(own, self.widths(level))

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
        return torch.cat(list((self.separate(h, level) | dict(values)).values()), -1)

    def spread(self, observed: Tensor, level: int = 0) -> Tensor:
        """A mask over the elements of h_level, (batch, width), from one over modalities, (batch, N)."""
        return observed[..., self.get_buffer(f"owner_{level}")]

    def join(self, given: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """x, (batch, width), 0 where nothing is given, and which modalities are observed, (batch, N) boolean.

        Args:
            given: x^(t) by name, (batch, width of x^(t)); labels may be class indices. A row of NaN, or the label -1,
                is missing.

        Raises:
            ValueError: for unknown names, nothing given at all, wrong widths or values, different numbers of rows.
        """
        for name in given:
            self.index(name)
        if not given:
            raise ValueError(
                f"all modalities are missing; give at least one of {', '.join(self.names)}"
            )
        given = {name: checks.tensor(value) for name, value in given.items()}
        scalar = [name for name, value in given.items() if value.ndim == 0]
        if scalar:
            raise ValueError(
                f"{scalar[0]} is a single number; a batch of values is needed (modalities: {self.described()})"
            )
        lengths = {name: len(value) for name, value in given.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"given values have different numbers of rows: {lengths}")
        n, parts, observed = next(iter(lengths.values())), [], []
        for name, modality in self.modalities.items():
            here = torch.zeros(n, dtype=torch.bool)
            value = torch.zeros(n, modality.width, dtype=self.dtype)
            if name in given:
                raw = given[name].cpu()
                here = present(raw)
                try:
                    value[here] = modality.values(name, raw[here]).to(self.dtype)
                except ValueError as error:
                    raise ValueError(f"{error} (modalities: {self.described()})") from None
            parts.append(value)
            observed.append(here)
        mask = torch.stack(observed, 1)
        if n and not bool(mask.any(1).all()):
            rows = (~mask.any(1)).nonzero().flatten().tolist()
            raise ValueError(
                f"all modalities are missing in {len(rows)} rows (first: row {rows[0]}); at least one of "
                f"{', '.join(self.names)} is needed in each"
            )
        return torch.cat(parts, 1).to(self.device), mask.to(self.device)

    def described(self) -> str:
        """Names, widths and kinds in one line."""
        return ", ".join(f"{name} {m.width} {m.kind}" for name, m in self.modalities.items())

    # -- up, and prediction ----------------------------------------------------------------------------------

    def feedforward(self, x: Tensor, observed: Tensor | None = None) -> tuple[Tensor, ...]:
        """h_0 .. h_L; modalities that are not observed are turned off where the top begins."""
        h = self.lower(x)
        return (*h, *self.climb(h[-1], observed))

    def lower(self, x: Tensor) -> tuple[Tensor, ...]:
        """h_0 .. h_J: the modalities' own codes."""
        h = [x]
        for pair in self.pairs[: self.level]:
            h.append(pair.encode(h[-1]))
        return tuple(h)

    def climb(self, codes: Tensor, observed: Tensor | None = None) -> tuple[Tensor, ...]:
        """h_{J+1} .. h_L from h_J, (batch, width); `observed`, (batch, N) boolean, is missingness input."""
        h = [codes]
        for pair in self.pairs[self.level :]:
            if len(h) == 1 and observed is not None and self.junction is not None:
                h.append(pair.recognition.transmit(pair.f(codes, observed)))
            else:
                h.append(pair.encode(h[-1]))
        return tuple(h[1:])

    def loop(self, codes: Tensor, observed: Tensor | None = None) -> Tensor:
        """h_J up through the top stack and down again, without noise: the top's reconstruction of the codes."""
        h = (codes, *self.climb(codes, observed))[-1]
        for pair in reversed(self.pairs[self.level :]):
            h = pair.decode(h)
        return h

    def down(self, codes: Tensor) -> Tensor:
        """x from h_J."""
        return self.decode(codes, self.level) if self.level > 0 else codes

    @torch.no_grad()
    def predict(self, given: Mapping[str, Tensor], name: str) -> Tensor:
        """x^(t) given other modalities, in one pass through missingness inputs: for a label, its probabilities.

        Source: Bengio 2014, Algorithm 4. `complete` iterates instead (Algorithm 6).

        Args:
            given: see `join`.
            name: t, the modality that is predicted; what `given` says of it is left out.

        Raises:
            ValueError: see `join`.
        """
        self.index(name)
        if self.level == self.depth:
            raise ValueError(
                "the model has no top stack that could predict one modality from others; use `complete`, which "
                "its prior serves"
            )
        x, observed = self.join({key: value for key, value in given.items() if key != name})
        parts = []
        for rows, mask in zip(x.split(BATCH), observed.split(BATCH), strict=True):
            parts.append(self.separate(self.down(self.loop(self.lower(rows)[-1], mask)))[name])
        return torch.cat(parts)

    @torch.no_grad()
    def prediction_errors(self, x: Tensor, there: Tensor) -> dict[str, Tensor]:
        """Each modality predicted from all others in one pass: mean error of the rows that have it.

        Error rates of labels, squared errors per element of the rest; latents have none.

        Args:
            x: (batch, width).
            there: which modalities are observed, (batch, N).
        """
        codes, truth, found = self.lower(x)[-1], self.separate(x), {}
        for t, name in enumerate(self.names):
            if name in self.latents:
                continue
            others = there.clone()
            others[:, t] = False
            guess = self.separate(self.down(self.loop(codes, others)))[name]
            if name in self.labels:
                wrong = (guess.argmax(1) != truth[name].argmax(1)).to(x.dtype)
            else:
                wrong = (guess - truth[name]).square().mean(1)
            found[name] = (wrong * there[:, t]).sum() / there[:, t].sum().clamp_min(1)
        return found


def present(value: Tensor) -> Tensor:
    """Which rows hold a value, (batch,): not those that are NaN throughout, nor the class index -1."""
    if value.is_floating_point():
        return ~torch.isnan(value).flatten(1).all(1) if value.ndim > 1 else ~torch.isnan(value)
    return value.long() != -1 if value.ndim == 1 else torch.ones(len(value), dtype=torch.bool)


def images_of(stack: Stack, x: Tensor) -> tuple[Tensor, tuple[int, ...] | None]:
    """The images in x and their height and width: of several modalities, the first one that has a shape."""
    shapes = stack.facts.get("shapes")
    if shapes is None or not isinstance(stack, JointStack):
        shape = stack.facts.get("shape")
        return x, None if shape is None else tuple(shape)
    if not shapes:
        return x, None
    name = next(name for name in stack.names if name in shapes)
    return stack.separate(x)[name], tuple(shapes[name])


def noise_of_all_but_labels(stack: JointStack, sigma: float = 0.25) -> list[Corruption]:
    """Gaussian noise on h_0 .. h_L in units of their spread, none on one-hot rows."""
    own = [
        None if m.kind in ("onehot", "latent") else RelativeNoise(sigma)
        for m in stack.modalities.values()
    ]
    below = [EachModality(own, stack.widths(level)) for level in range(stack.level + 1)]
    return [*below, *(RelativeNoise(sigma) for _ in range(stack.depth - stack.level))]


def check_modalities(stack: Stack, data: object, handles_missing: bool) -> None:
    """Raise a ValueError unless a data set of several modalities has those of a joint stack, in its order, of its kinds."""
    if not isinstance(stack, JointStack) or not hasattr(data, "modalities"):
        return
    expected = {name: m.width for name, m in stack.modalities.items() if name not in stack.latents}
    if list(data.modalities.items()) != list(expected.items()):
        raise ValueError(
            f"the data have the modalities {data.modalities}, the model {expected} (name: width); the same ones in "
            "the same order are needed"
        )
    for split in ("train", "valid"):
        x, there = data.split(split)
        for t, (name, part) in enumerate(
            zip(expected, x.split(list(expected.values()), 1), strict=True)
        ):
            stack.modalities[name].values(f"{name} of the {split} data", part[there[:, t]])
        if not handles_missing and not bool(there.all()):
            raise ValueError(
                f"modalities are missing in the {split} data, which this rule would take for zeros; accepted: "
                "JointTargetPropRule, or complete data"
            )
