"""Sample quality beside the Parzen score: do samples look like data, cover it, or copy it?

All measures compare sets of feature vectors. A network's method `features` gives them: a
classifier of the same data (gendae.metrics.features), or the pixels themselves where there is no
such network (`PixelFeatures`). Held-out images are the reference of every measure. The numbers of
a model can so be set beside those of training images, other held-out images and k-means centroids.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from gendae import checks
from gendae.metrics.neighbours import (
    Manifold,
    authenticity,
    neighbour_radii,
    precision_recall_density_coverage,
)
from gendae.metrics.parzen import kmeans_centroids
from gendae.metrics.precision import full_precision
from gendae.priors.copying import DataCopying, checked

#: Samples whose authenticity is measured, each against all training images.
AUTHENTIC = 1000
BATCH = 100  # images at a time through a network: larger ones are slower on a CPU


def untold(name: str) -> None:
    """A step begins, and nobody is told."""


class PixelFeatures(nn.Module):
    """The pixels as features, where no classifier of the data exists.

    Example:
        >>> PixelFeatures()(torch.ones(1, 3))
        tensor([[1., 1., 1.]])
    """

    classes = 0

    def features(self, x: Tensor) -> Tensor:
        """x itself."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        return x


@checks.takes_arrays
def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """|mu_r - mu_f|^2 + tr(C_r + C_f - 2 (C_r C_f)^(1/2)): FID on these features.

    Source: Heusel et al. 2017, Eq. 6; biased upwards for few samples, so compare equal numbers
    only.

    Args:
        real, fake: features, (n, d) and (m, d).

    Raises:
        ValueError: for fewer than two rows, widths that differ, or NaN.

    Example:
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> round(frechet_distance(x, x + 3.0), 6)
        9.0
    """
    width = real.shape[-1]
    metric = FrechetInceptionDistance(feature=_identity(width)).set_dtype(torch.float64)

    metric.update(checked("real", real, width, 2).double(), real=True)
    metric.update(checked("fake", fake, width, 2).double(), real=False)

    return max(metric.compute().item(), 0.0)  # rounding may leave less than nothing


@checks.takes_arrays
@full_precision()
def kernel_distance(
    real: Tensor, fake: Tensor, subsets: int = 50, subset_size: int = 1000, seed: int = 0
) -> float:
    """Unbiased squared MMD under the kernel (x.y / d + 1)^3, the mean over random subsets: KID.

    The subsets are drawn from `seed`; the global generator is left alone.
    Source: Binkowski et al. 2018.

    Args:
        real, fake: features, (n, d) and (m, d).
        subsets: number of subsets.
        subset_size: rows of each subset; fewer where a set has fewer.

    Raises:
        ValueError: for fewer than two rows, widths that differ, or NaN.
    """
    width = real.shape[-1]
    real = checked("real", real, width, 2)
    fake = checked("fake", fake, width, 2)
    size = min(subset_size, len(real), len(fake))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*will save all extracted features.*")
        metric = KernelInceptionDistance(
            feature=_identity(width), subsets=subsets, subset_size=size
        )

    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # subsets are drawn on the CPU
        mean, _ = metric.compute()

    return mean.item()


def _identity(width: int) -> nn.Module:
    """A network for torchmetrics: the features of feature vectors are these vectors."""
    identity = PixelFeatures()
    identity.num_features = width  # torchmetrics would try the network on an image otherwise

    return identity


@full_precision()
@torch.no_grad()
def in_batches(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Features of images, and class probabilities where the network has classes; in CPU memory."""
    features = []
    probabilities = []
    for batch in x.split(BATCH):
        features.append(network.features(batch).cpu())
        if network.classes:
            logits = network.head(features[-1].to(batch))
            probabilities.append(logits.softmax(1).cpu())

    if not network.classes:
        return torch.cat(features), None

    return torch.cat(features), torch.cat(probabilities)


class Quality:
    """All measures of samples against one training set and one held-out set.

    Args:
        train: training images, (n, pixels), in [0, 1].
        held_out: the reference of every measure: test images.
        network: a frozen FeatureClassifier, or PixelFeatures.
        k: neighbours of precision, recall, density and coverage.
        cells: see `DataCopying`.
        seed: of k-means and of KID's subsets.

    Raises:
        ValueError: for widths that differ, fewer than k + 1 rows, or NaN.
    """

    @checks.takes_arrays
    def __init__(
        self,
        train: Tensor,
        held_out: Tensor,
        network: nn.Module,
        k: int = 5,
        cells: int | None = None,
        seed: int = 0,
    ) -> None:
        self.network = network
        self.k = k
        self.seed = seed

        self.real, _ = in_batches(network, held_out)
        self.radii = neighbour_radii(checked("held_out", self.real, self.real.shape[-1], k + 1), k)
        self.copying_pixels = DataCopying(train, held_out, cells, seed)
        self.copying = self.copying_pixels
        self.train = train
        if network.classes:
            self.train, _ = in_batches(network, train)
            self.copying = DataCopying(self.train, self.real, cells, seed)

    @checks.takes_arrays
    def __call__(self, samples: Tensor) -> dict[str, float | list[float] | None]:
        """The measures by name; classes and confidence are None for a network without classes."""
        fake, probabilities = in_batches(self.network, samples)

        classes = None
        confidence = None
        if probabilities is not None:
            counts = probabilities.argmax(1).bincount(minlength=self.network.classes)
            classes = (counts / len(samples)).tolist()
            confidence = probabilities.max(1).values.mean().item()

        return {
            "n": len(samples),
            "fid": frechet_distance(self.real, fake),
            "kid": kernel_distance(self.real, fake, seed=self.seed),
            **self.manifold(fake)._asdict(),
            "copying": self.copying(fake),
            "copying_pixels": self.copying_pixels(samples),
            "authentic": authenticity(self.train, fake[:AUTHENTIC]),
            "classes": classes,
            "confidence": confidence,
        }

    def manifold(self, fake: Tensor) -> Manifold:
        """Precision, recall, density and coverage of features."""
        return precision_recall_density_coverage(self.real, fake, self.k, self.radii)

    def copying_of_halves(self) -> float:
        """C_T of every second held-out image against the others: the statistic of fresh data."""
        return self.copying(self.real[1::2], self.real[::2])


@checks.takes_arrays
def sample_quality(
    samples: Tensor, train: Tensor, held_out: Tensor, network: nn.Module, k: int = 5, seed: int = 0
) -> dict[str, float | list[float] | None]:
    """FID, KID, precision, recall, density, coverage, copying and class shares of samples.

    Args:
        samples: images, (m, pixels).
        train, held_out, network, k, seed: see `Quality`.

    Returns:
        n, fid, kid, precision, recall, density, coverage, copying (C_T on features),
        copying_pixels (C_T on pixels), authentic (`authenticity` of the first 1,000), classes
        (share of each class) and confidence (mean largest class probability).

    Example:
        >>> x = torch.rand(300, 4, generator=torch.Generator().manual_seed(0))
        >>> row = sample_quality(x[:100], x[:200], x[200:], PixelFeatures())
        >>> row["copying"] < -8, row["classes"]
        (True, None)
    """
    return Quality(train, held_out, network, k, seed=seed)(samples)


@checks.takes_arrays
def quality_report(
    named_samples: dict[str, Tensor],
    train: Tensor,
    validation: Tensor,
    test: Tensor,
    network: nn.Module,
    centroids: Tensor | None = None,
    seed: int = 0,
    begin: Callable[[str], None] = untold,
) -> dict[str, dict]:
    """Sample quality of several sets of samples and of real images, all against the test images.

    Real images are the first training images, the first validation images (no set is compared with
    itself), and k-means centroids of the training images. Each set has as many images as the
    samples, or all that exist. The row of held-out images also has `copying_of_halves`: one half
    of the test images against the other. `begin` is called with the name of each set as its turn
    comes.
    """
    n = max(len(samples) for samples in named_samples.values())
    if centroids is None:
        centroids = kmeans_centroids(train, max(1, min(n, len(train) // 2)), seed)

    begin("sample quality: features")
    quality = Quality(train, test, network, seed=seed)
    sets = {
        **named_samples,
        "training images": train[:n],
        "held-out images": validation[:n],
        "k-means centroids": centroids,
    }

    report = {}
    for name, x in sets.items():
        begin(f"sample quality: {name}")
        report[name] = quality(x)

    report["held-out images"]["copying_of_halves"] = quality.copying_of_halves()

    return report
