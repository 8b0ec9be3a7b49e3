"""Labelled examples of which few keep their label: data for semi-supervised learning."""

import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gendae import checks
from gendae.data.base import Data, source_of
from gendae.data.loader import Split
from gendae.data.multimodal import FewLabels
from gendae.registry import Plain, build, register
from gendae.storage.model_file import load

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

BATCH = 1000  # examples whose codes are computed at a time
#: Steps of label spreading at most.
STEPS = 200


class Relabelled(Data):
    """Base class: training examples of a source with other labels; the rest is as it was.

    Args:
        source: the examples.
        batch_size, seed: see `Data`.
    """

    def __init__(self, source: Data, batch_size: int, seed: int) -> None:
        super().__init__(batch_size, seed)
        self.source = source_of(source, type(self).__name__)
        self.kind = self.source.kind

    def prepare_data(self) -> None:
        """Fetch the examples where they are missing."""
        self.source.prepare_data()

    def read(self) -> tuple[dict[str, Split], tuple[int, ...]]:
        shape = self.source.shape
        self._identity = self.source.identity
        splits = {name: self.source.split(name) for name in ("valid", "test")}

        x, y, _ = self.source.split("train")
        splits["train"] = self.relabelled(x, y)
        return splits, shape

    def facts(self) -> dict[str, Plain]:
        """Those of the source, such as names of the classes."""
        return self.source.facts()

    def relabelled(self, x: Tensor, y: Tensor | None) -> Split:
        """The training examples, with the labels that a variant gives them."""
        raise NotImplementedError(f"{type(self).__name__} must define relabelled")


@register
class PartlyLabelled(Relabelled):
    """Training examples without their label but for a few; validation and test are as they were.

    The label of an example without one is -1.

    Args:
        source: the examples, with labels.
        labelled: which of them keep their label, see `FewLabels`.
        classes: number of classes.
        batch_size, seed: see `Data`.

    Raises:
        ValueError: for a number of labels that is no multiple of the classes, or that the data do
            not have; for data without labels.

    Example:
        >>> from gendae.data.images import Digits
        >>> y = PartlyLabelled(Digits(), FewLabels(100)).split("train").y
        >>> len(y), int((y >= 0).sum())
        (1199, 100)
    """

    def __init__(
        self,
        source: Data,
        labelled: FewLabels,
        classes: int = 10,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(source, batch_size, seed)
        self.classes = checks.whole("classes", classes, 2)
        self.labelled = checks.kind("labelled", build(labelled), FewLabels)
        self.labelled.check(self.classes)

    def relabelled(self, x: Tensor, y: Tensor | None) -> Split:
        if y is None:
            raise ValueError(
                f"the training examples of {type(self.source).__name__} have no labels"
            )

        checks.labels("labels of the training examples", y, len(x), self.classes)
        keep = self.labelled.drawn(y, self.classes)
        few = torch.full_like(y, -1)
        few[keep] = y[keep]

        return Split(x, few)[self.labelled.rows(keep, len(y))]


@register
class SpreadLabels(Relabelled):
    """Few labels, spread to the examples whose codes are near by; validation and test are kept.

    A model that was trained without labels, or with few, gives the codes, which are centred and
    of unit length here. Along their nearest neighbours labels spread as
    F <- alpha S F + (1 - alpha) Y, with Y the known ones and S the graph of weights
    exp(-|h_i - h_j|^2 / (s_i s_j)), s_i the distance of i's last neighbour, divided by the roots
    of both degrees (scikit-learn's `LabelSpreading`). The more certain examples get the label that
    this makes most probable, the others none, which is -1.
    Source: Zhou et al. 2004, "Learning with local and global consistency".

    Args:
        source: the examples, few of them labelled, none twice.
        codes_of: the model of the codes: a .ckpt, a .safetensors, or the name of a shipped one.
        level: l of the codes h_l; the top if None, x itself if 0.
        neighbours: of each example in the graph.
        alpha: how much of a label comes from neighbours, in (0, 1).
        share: of the training examples, the most certain ones, that get a label.
        batch_size, seed: see `Data`.

    Raises:
        ValueError: for numbers out of range; when used, for repeated examples, labels that are all
            there, or a model of another width.

    Example:
        >>> from gendae.data.images import Digits
        >>> few = PartlyLabelled(Digits(), FewLabels(50))
        >>> y = SpreadLabels(few, "digits-variational-em", share=0.5).split("train").y
        >>> int((y >= 0).sum()), (y == Digits().split("train").y)[y >= 0].float().mean() > 0.9
        (600, tensor(True))
    """

    def __init__(
        self,
        source: Data,
        codes_of: str,
        level: int | None = None,
        neighbours: int = 5,
        alpha: float = 0.99,
        share: float = 1.0,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(source, batch_size, seed)
        self._check_source()

        self.codes_of = str(checks.path("codes_of", codes_of))
        self.level = None if level is None else checks.whole("level", level, 0)
        self.neighbours = checks.whole("neighbours", neighbours, 1)

        self.alpha = checks.share("alpha", alpha)
        if alpha in (0.0, 1.0):
            raise ValueError(f"alpha={alpha}: a number between 0 and 1 is needed")
        self.share = checks.share("share", share)

    def relabelled(self, x: Tensor, y: Tensor | None) -> Split:
        self._check(x, y)

        return Split(x, self._spread(self._codes(x), y))

    def _check_source(self) -> None:
        """Raise a ValueError for copies of labelled examples, which would be their neighbours."""
        few = getattr(self.source, "labelled", None)
        if isinstance(few, FewLabels) and (few.only or few.share is not None):
            raise ValueError(
                f"source: FewLabels(share={few.share}, only={few.only}) has labelled examples "
                "several times, which would be neighbours of each other; accepted: share=None, "
                "only=False"
            )

    def _check(self, x: Tensor, y: Tensor | None) -> None:
        """Raise a ValueError unless labels can spread along these examples."""
        if y is None or not bool((y < 0).any()) or not bool((y >= 0).any()):
            raise ValueError(
                f"source={type(self.source).__name__}: some training examples with a label and "
                "some without (-1) are needed, as in PartlyLabelled"
            )
        if len(x) <= self.neighbours:
            raise ValueError(
                f"neighbours={self.neighbours}: {len(x)} training examples have fewer than that"
            )

    def _codes(self, x: Tensor) -> np.ndarray:
        """h_level of all examples, centred and of unit length, (n, width)."""
        stack = load(self.codes_of)
        level = stack.depth if self.level is None else self.level
        if level > stack.depth:
            raise ValueError(f"level={level}: {self.codes_of} has levels 0 .. {stack.depth}")

        with torch.no_grad():
            h = torch.cat([stack.encode(part)[level] for part in x.split(BATCH)])

        return torch.nn.functional.normalize(h - h.mean(0)).numpy()

    def _spread(self, codes: np.ndarray, y: Tensor) -> Tensor:
        """Labels of the more certain examples; known ones stay."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.semi_supervised import LabelSpreading

        graph = neighbour_graph(codes, self.neighbours)
        spreading = LabelSpreading(lambda *_: graph, alpha=self.alpha, max_iter=STEPS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # order is what counts
            spreading.fit(codes, y.numpy())

        probability = torch.from_numpy(spreading.label_distributions_)
        certainty, best = probability.max(1)
        certainty[y >= 0] = 2.0
        chosen = certainty.argsort(descending=True, stable=True)[: round(self.share * len(y))]

        labels = torch.full_like(y, -1)
        labels[chosen] = torch.from_numpy(spreading.classes_)[best[chosen]]
        return torch.where(y >= 0, y, labels)


def neighbour_graph(codes: np.ndarray, neighbours: int) -> "csr_matrix":
    """Weights exp(-|h_i - h_j|^2 / (s_i s_j)) where one is a neighbour of the other, (n, n).

    Source: local scales of Zelnik-Manor and Perona 2004.
    """
    from scipy.sparse import csr_matrix
    from sklearn.neighbors import NearestNeighbors

    distance, index = NearestNeighbors(n_neighbors=neighbours).fit(codes).kneighbors()
    scale = np.maximum(distance[:, -1], np.finfo(np.float32).tiny)
    weight = np.exp(-(distance**2) / (scale[:, None] * scale[index]))

    n = len(codes)
    rows = np.repeat(np.arange(n), neighbours)
    directed = csr_matrix((weight.ravel(), (rows, index.ravel())), shape=(n, n))
    return directed.maximum(directed.T)
