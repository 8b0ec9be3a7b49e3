"""The characters of a text, of which each is to be told from those before it."""

from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from gendae import checks
from gendae.data.base import SPLITS, Data
from gendae.data.files import in_order
from gendae.data.loader import Split
from gendae.registry import Plain, register
from gendae.storage.inputs import regular_file


@register
class Characters(Data):
    """A text cut into pieces of T characters, one-hot; the label of a step is the next character.

    The end of each file validates and tests. The vocabulary is what stands in the training part
    twice at least; everything else is one further symbol, the last one.

    Args:
        path: a text in UTF-8, or a folder of them (.txt).
        steps: T.
        context: of the steps of a validation or test piece, those that have no label, -1, since
            the piece before has it: every character is told once, from `context` or more others.
        valid_fraction, test_fraction: shares of each text, at its end: first validation, then
            test.
        batch_size, seed: see `Data`.

    Raises:
        FileNotFoundError: if there is nothing at `path`, when it is read.
        ValueError: for numbers out of range; when it is read, for what is no text, and for texts
            too short for one piece in each part.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "song.txt"
        ...     _ = file.write_text("la la lu " * 100)
        ...     data = Characters(str(file), steps=10)
        ...     x, y, _ = data.split("train")
        ...     data.vocabulary, x.shape, y.shape, data.shape
        ([' ', 'a', 'l', 'u'], torch.Size([71, 50]), torch.Size([71, 10]), (10, 5))
    """

    kind = "sequence"

    def __init__(
        self,
        path: str,
        steps: int = 100,
        context: int = 0,
        valid_fraction: float = 0.1,
        test_fraction: float = 0.1,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.path = str(path)
        self.steps = checks.whole("steps", steps, 1, checks.REPEATS)
        self.context = checks.whole("context", context, 0, self.steps - 1)

        self.valid_fraction, self.test_fraction = checks.fractions(
            valid_fraction=valid_fraction, test_fraction=test_fraction
        )

        self._vocabulary: list[str] = []

    @property
    def vocabulary(self) -> list[str]:
        """The characters by their index; the symbol of all others comes after them."""
        self.setup()
        return self._vocabulary

    def facts(self) -> dict[str, Plain]:
        """The vocabulary."""
        return {"vocabulary": self.vocabulary}

    def symbols(self) -> dict[str, list[Tensor]]:
        """The texts of each split, as indices of characters; it sets the vocabulary."""
        parts = [self._parts(text) for text in read_texts(self.path)]
        counts = Counter("".join(part["train"] for part in parts))
        self._vocabulary = sorted(c for c, count in counts.items() if count > 1)

        index = {character: i for i, character in enumerate(self._vocabulary)}
        unknown = len(index)

        symbols: dict[str, list[Tensor]] = {}
        for name in SPLITS:
            texts = [part[name] for part in parts]
            symbols[name] = [torch.tensor([index.get(c, unknown) for c in t]) for t in texts]

        return symbols

    def _parts(self, text: str) -> dict[str, str]:
        """Training, validation and test text, one after the other."""
        last = len(text) - int(self.test_fraction * len(text))
        held_out = last - int(self.valid_fraction * len(text))

        return {"train": text[:held_out], "valid": text[held_out:last], "test": text[last:]}

    def read(self) -> tuple[dict[str, Split], tuple[int, int]]:
        symbols = self.symbols()
        self.identify(self.path, text=torch.cat([t for texts in symbols.values() for t in texts]))

        width = len(self._vocabulary) + 1
        splits = {}
        for name, texts in symbols.items():
            context = 0 if name == "train" else self.context
            pieces = torch.cat([self._pieces(text, context) for text in texts])
            if len(pieces) == 0:
                raise ValueError(
                    f"{self.path}: its {name} part is shorter than steps={self.steps} characters"
                )
            checks.fits("path", self.path, pieces.numel() * width)

            labels = pieces[:, 1:].clone()
            labels[:, :context] = -1
            x = F.one_hot(pieces[:, :-1], width).float()
            splits[name] = Split(x.flatten(1), labels)

        return splits, (self.steps, width)

    def _pieces(self, text: Tensor, context: int) -> Tensor:
        """Pieces of T + 1 characters, as many as are whole; the next begins before the last ends.

        They share one character, which is told and then read, and those of the context.
        """
        if len(text) <= self.steps:
            return text.new_zeros(0, self.steps + 1)

        return text.unfold(0, self.steps + 1, self.steps - context)


def read_texts(path: str | Path) -> list[str]:
    """A text, or those of a folder in natural order.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: for a folder without texts, and files that are no text in UTF-8.
    """
    path = checks.path("path", path)
    files = [path]
    if path.is_dir():
        files = in_order(path.glob("*.txt"))
        if not files:
            raise ValueError(f"{path} holds no texts (.txt)")

    return [_read_text(regular_file(file)) for file in files]


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8: {error.reason}") from None
