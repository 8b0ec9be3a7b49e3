"""Files of sequences, and the rows that recurrent pairs read step by step.

A row is (x_1 .. x_T), one step after the other. Where sequences have lengths, a number comes
before each step: 1 where the step is there, and 0 in the padding, whose numbers are 0.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gendae import checks
from gendae.data.files import IMAGE_ARRAYS, LABEL_ARRAYS, read_array
from gendae.errors import shortened
from gendae.storage.inputs import regular_file

LENGTHS = ("lengths",)
OBSERVED = ("observed",)
#: What an error of a file of arrays is followed by, where it holds objects.
RAGGED = (
    "; sequences of different lengths are one array x (n, steps, channels), padded, beside lengths"
)


class Series(NamedTuple):
    """Sequences of one width.

    Args:
        x: (n, T, channels), 0 where there is no step.
        lengths: how many steps of each are there, (n,); None if all of them are.
        y: what is known of each: class indices, (n,), or at every step, (n, T), -1 where there is
            none; or numbers of a floating type, (n,), (n, k) or at every step (n, T, k). None if
            nothing is.
        observed: which steps are known, (n, T) boolean, to a completion; None if all of them are.
    """

    x: Tensor
    lengths: Tensor | None = None
    y: Tensor | None = None
    observed: Tensor | None = None

    @property
    def there(self) -> Tensor:
        """Which steps are there, (n, T) boolean."""
        steps = torch.arange(self.x.shape[1])
        if self.lengths is None:
            return torch.ones(self.x.shape[:2], dtype=torch.bool)

        return steps < self.lengths[:, None]

    def padded(self, steps: int) -> "Series":
        """The same sequences with so many steps, of which the last ones are not there."""
        more = steps - self.x.shape[1]
        if more <= 0:
            return self

        x = torch.nn.functional.pad(self.x, (0, 0, 0, more))
        lengths = self.lengths
        if lengths is None:
            lengths = torch.full((len(x),), self.x.shape[1])

        y = self.y
        if y is not None and y.ndim == 2 and not y.is_floating_point():
            y = torch.nn.functional.pad(y, (0, more), value=-1)
        if y is not None and y.ndim == 3:
            y = torch.nn.functional.pad(y, (0, 0, 0, more))

        observed = self.observed
        if observed is not None:
            observed = torch.nn.functional.pad(observed, (0, more), value=True)

        return Series(x, lengths, y, observed)

    def rows(self, masked: bool) -> Tensor:
        """What a recurrent pair of this many steps reads, (n, T * (channels + masked))."""
        if not masked:
            return self.x.flatten(1)

        return torch.cat([self.there[..., None].to(self.x), self.x], 2).flatten(1)

    def scaled(self, scale: "ChannelScale") -> "Series":
        """Sequences in other units, with the padding left at 0."""
        x = (self.x - scale.mean) / scale.deviation
        return self._replace(x=torch.where(self.there[..., None], x, 0.0))


class ChannelScale(NamedTuple):
    """The units of each channel.

    Args:
        mean, deviation: (channels,).

    Example:
        >>> series = Series(torch.tensor([[[1.0], [3.0], [0.0]]]), torch.tensor([2]))
        >>> series.scaled(ChannelScale.of(series)).x.flatten()
        tensor([-1.,  1.,  0.])
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, series: Series) -> "ChannelScale":
        """Mean and standard deviation over all steps that are there; 1 of a constant channel."""
        steps = series.x[series.there].double()
        deviation = steps.std(0, correction=0)
        deviation = torch.where(deviation > 0, deviation, 1.0)

        return cls(steps.mean(0).float(), deviation.float())

    def fact(self) -> dict[str, list[float]]:
        """What a model remembers."""
        return {"mean": self.mean.tolist(), "deviation": self.deviation.tolist()}

    @classmethod
    def recorded(cls, facts: Mapping[str, list[float]]) -> "ChannelScale":
        """The inverse of `fact`."""
        return cls(torch.tensor(facts["mean"]), torch.tensor(facts["deviation"]))


# -- reading --------------------------------------------------------------------------------------


def read_series(path: str | Path) -> Series:
    """Sequences from a file.

    Args:
        path: .npz of x (n, steps, channels), integer or floating, and where they are there
            lengths, y and observed, see `Series`; .npy of x alone; or .ts, the text format of time
            series archives, with class labels or numbers.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for other kinds of file and damaged ones, naming file and array; for arrays of
            another shape or type, no sequences, steps or channels, lengths outside 1 .. T, and
            numbers that are not finite.
    """
    path = checks.path("path", path)
    if path.suffix == ".ts":
        return _read_ts(regular_file(path))
    if path.suffix in (".npy", ".npz"):
        return _read_arrays(regular_file(path))

    raise ValueError(f"{path}: unknown kind of sequences; accepted: .npz, .npy, .ts")


def _read_arrays(path: Path) -> Series:
    try:
        x, names = read_array(path, IMAGE_ARRAYS, or_only=True)
        lengths, y, observed = (
            read_array(path, accepted)[0] if names else None
            for accepted in (LENGTHS, LABEL_ARRAYS, OBSERVED)
        )
    except ValueError as error:
        advice = RAGGED if "pickled" in str(error) else ""
        raise ValueError(f"{error}{advice}") from None

    if x is None:
        held = shortened(", ".join(names), 200) or "none"
        raise ValueError(f"{path}: no array x, the sequences; the arrays are {held}")
    if x.ndim != 3 or x.dtype.kind not in "iuf":
        raise ValueError(
            f"{path}: x has shape {x.shape} and type {x.dtype}; numbers of shape "
            "(n, steps, channels) are needed"
        )
    if x.size == 0:
        raise ValueError(f"{path}: x has shape {x.shape}, and is empty; T = 0 steps are none")

    steps = _numbers(x)
    lengths = _lengths(path, lengths, x.shape)
    observed = _observed(path, observed, x.shape)

    there = Series(steps, lengths).there
    known = there if observed is None else there & observed
    bad = int((~torch.isfinite(steps[known])).sum())
    if bad:
        raise ValueError(
            f"{path}: x holds {bad} NaN or infinite values in steps that are there; finite "
            "numbers are needed, and lengths where sequences are shorter"
        )

    steps = torch.where(known[..., None], steps, 0.0)
    return Series(steps, lengths, _answers(path, y, there), observed)


def _numbers(array: np.ndarray) -> Tensor:
    # a number above single precision becomes infinite, and infinite ones are refused
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def _lengths(path: Path, lengths: np.ndarray | None, shape: tuple[int, ...]) -> Tensor | None:
    if lengths is None:
        return None

    n, steps, _ = shape
    if lengths.shape != (n,) or lengths.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: lengths has shape {lengths.shape} and type {lengths.dtype}; whole numbers "
            f"of shape ({n},) are needed"
        )
    if lengths.min() < 1 or lengths.max() > steps:
        raise ValueError(
            f"{path}: lengths holds numbers from {lengths.min()} to {lengths.max()}; x has "
            f"{steps} steps, 1 .. {steps}"
        )

    return torch.from_numpy(lengths.astype(np.int64))


def _observed(path: Path, observed: np.ndarray | None, shape: tuple[int, ...]) -> Tensor | None:
    if observed is None:
        return None

    if observed.shape != shape[:2] or observed.dtype != bool:
        raise ValueError(
            f"{path}: observed has shape {observed.shape} and type {observed.dtype}; booleans of "
            f"shape {shape[:2]}, one for each step, are needed"
        )
    return torch.from_numpy(observed.copy())


def _answers(path: Path, y: np.ndarray | None, there: Tensor) -> Tensor | None:
    """Labels or numbers of n sequences, or labels of their steps."""
    if y is None:
        return None

    n, steps = there.shape
    of_sequences = y.ndim in (1, 2) and len(y) == n
    of_steps = y.ndim == 3 and y.shape[:2] == (n, steps)
    if y.dtype.kind == "f" and (of_sequences or of_steps) and y.size > 0:
        return checks.finite(f"{path}: y", _numbers(y))

    if y.dtype.kind not in "iu" or y.shape not in ((n,), (n, steps)):
        raise ValueError(
            f"{path}: y has shape {y.shape} and type {y.dtype}; class indices of an integer type "
            f"and shape ({n},) or ({n}, {steps}), or floating numbers, ({n},), ({n}, k) or "
            f"({n}, {steps}, k), are needed"
        )

    least = 1 - y.ndim  # a step may have no label
    if y.min() < least or y.max() > checks.MOST_SEED:
        none = ", and -1 is a step without a label" if least else ""
        raise ValueError(
            f"{path}: y holds labels from {y.min()} to {y.max()}; class indices are >= 0{none}"
        )

    labels = torch.from_numpy(y.astype(np.int64))
    if y.ndim == 2:
        labels = torch.where(there, labels, -1)

    return labels


# -- the text format of archives ------------------------------------------------------------------


def _read_ts(path: Path) -> Series:
    """Lines of a header with @, then a sequence a line: its channels, and what it is."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is damaged: text in UTF-8 is needed") from None

    numbered = ((i, line.strip()) for i, line in enumerate(lines, 1))
    content = ((i, line) for i, line in numbered if line and not line.startswith("#"))
    header = _header(path, content)

    sequences = []
    last = []
    for number, line in content:
        where = f"{path}, line {number}"
        *channels, answer = line.split(":") if header.answered else [*line.split(":"), ""]
        sequences.append(_sequence(where, channels))
        last.append(_answer(where, answer.strip(), header))

    if not sequences:
        raise ValueError(f"{path} holds no sequences")
    if len({sequence.shape[1] for sequence in sequences}) > 1:
        raise ValueError(f"{path} holds sequences of different numbers of channels")

    lengths = torch.tensor([len(sequence) for sequence in sequences])
    x = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    equal = bool((lengths == lengths[0]).all())

    return Series(x, None if equal else lengths, torch.tensor(last) if header.answered else None)


class _Header(NamedTuple):
    """What the last part of a line is: one of the classes, or a number."""

    classes: list[str]
    number: bool

    @property
    def answered(self) -> bool:
        return bool(self.classes) or self.number


def _header(path: Path, content: Iterator[tuple[int, str]]) -> _Header:
    """What the header says, up to @data."""
    said = {}
    for _, line in content:
        key, *values = line.split()
        key = key.lower()
        if key == "@data":
            break
        if not key.startswith("@"):
            raise ValueError(f"{path}: {line[:40]!r} stands before @data; lines of @ are needed")
        said[key] = values
    else:
        raise ValueError(f"{path} has no line @data, which sequences follow")

    if _is_true(said.get("@timestamps")):
        raise ValueError(f"{path}: @timeStamps true; sequences without time stamps are needed")

    classes = said.get("@classlabel", [])
    return _Header(classes[1:] if _is_true(classes) else [], _is_true(said.get("@targetlabel")))


def _is_true(values: list[str] | None) -> bool:
    return bool(values) and values[0].lower() == "true"


def _sequence(where: str, channels: list[str]) -> Tensor:
    """(steps, channels)."""
    try:
        numbers = [[float(value) for value in channel.split(",")] for channel in channels]
    except ValueError:
        raise ValueError(f"{where}: numbers, separated by commas, are needed") from None

    lengths = sorted({len(channel) for channel in numbers})
    if len(lengths) != 1:
        raise ValueError(f"{where}: channels of equal length are needed, not of {lengths}")

    return checks.finite(where, torch.tensor(numbers).T)


def _answer(where: str, text: str, header: _Header) -> int | float:
    if header.classes:
        if text not in header.classes:
            raise ValueError(f"{where}: class {text!r}; @classLabel names {header.classes}")
        return header.classes.index(text)

    if not header.number:
        return 0
    try:
        return checks.real(where, float(text))
    except ValueError:
        raise ValueError(f"{where}: {text!r}; a finite number is needed") from None
