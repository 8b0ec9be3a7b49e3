"""Small classifiers of images: their features measure sample quality, their labels count classes.

Distances between images say little in pixel space, and Inception features say nothing about
digits. FID, KID, precision and recall are therefore taken on the last hidden layer of a network
that tells the classes of the same data apart. Those that come with gendae (`CLASSIFIERS`) were
trained by benchmarks/classifier.py and stay as they are. Numbers of different networks, and so of
different data, cannot be compared.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from gendae import checks
from gendae.data.loader import Split
from gendae.registry import build, describe, register
from gendae.storage.description import Budget
from gendae.storage.model_file import read_checked, write_checked
from gendae.storage.sealed import CheckpointError, regular_file
from gendae.storage.shipped import shipped_files
from gendae.storage.verify import check_weights

FORMAT = "gendae-classifier/1"
#: Below the folder of shipped stacks, so that none is taken for one.
NETWORKS = "checkpoints/features/*.safetensors"
#: Shipped classifiers by the name of their data set, see `gendae.data.identity`.
CLASSIFIERS = {"MNIST": "mnist-classifier", "FashionMNIST": "fashion-mnist-classifier"}


@register
class FeatureClassifier(nn.Module):
    """Two convolutions with max-pooling, a hidden layer of features, and class logits.

    There is neither batch normalisation nor dropout: the network gives the same features in
    training and in evaluation mode.

    Args:
        shape: of an image, see `checks.ImageShape`.
        channels: channels of the two 5 x 5 convolutions.
        width: width of the hidden layer, the number of features.
        classes: number of classes.

    Raises:
        ValueError: for other than two convolutions, images below 4 x 4, or a width below 1.

    Example:
        >>> network = FeatureClassifier()
        >>> x = torch.rand(3, 784)
        >>> network(x).shape, network.features(x).shape
        (torch.Size([3, 10]), torch.Size([3, 64]))
    """

    def __init__(
        self,
        shape: Sequence[int] = (28, 28),
        channels: Sequence[int] = (16, 32),
        width: int = 64,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.shape = checks.several("shape", shape)
        self.channels = checks.several("channels", channels)
        self.image = checks.ImageShape.of(self.shape)
        if len(self.channels) != 2 or min(self.image.size) < 4:
            raise ValueError(
                f"channels={self.channels}, shape={self.shape}: two convolutions and images "
                "of at least 4 x 4 pixels are needed"
            )

        checks.whole("channels", min(self.channels), 1)
        checks.whole("width", width, 1)
        checks.whole("classes", classes, 1)

        self.width = width
        self.classes = classes
        self.frozen = False
        self.facts = {}

        low, high = self.channels
        pooled = [side // 4 for side in self.image.size]
        self.body = nn.Sequential(
            nn.Conv2d(self.image.channels, low, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(low, high, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(high * pooled[0] * pooled[1], self.width),
            nn.ReLU(),
        )
        self.head = nn.Linear(self.width, classes)

    def freeze(self) -> "FeatureClassifier":
        """The network itself, without gradients and for ever in evaluation mode.

        Its weights are laid out with channels last, as convolutions on a CPU are twice as fast.
        """
        self.frozen = True

        return self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "FeatureClassifier":
        """Training mode, unless frozen: a metric or a Trainer may ask for it all the same."""
        return super().train(mode and not self.frozen)

    @checks.takes_arrays
    @torch.no_grad()
    def normalise(self, x: Tensor) -> float:
        """Scale the features to mean square 1 over the images x, and leave the logits as they are.

        KID's kernel (x.y / d + 1)^3 expects features of order 1.

        Returns:
            What the features were divided by.

        Raises:
            ValueError: for no images, or images of another size.
        """
        checks.rows("x", x)

        squares = [self.features(b).square().mean() * len(b) for b in x.split(100)]
        scale = (torch.stack(squares).sum() / len(x)).sqrt()

        hidden = self.body[-2]
        hidden.weight.div_(scale)  # ReLU(a / s) = ReLU(a) / s
        hidden.bias.div_(scale)
        self.head.weight.mul_(scale)

        return scale.item()

    @checks.takes_arrays
    def features(self, x: Tensor) -> Tensor:
        """Hidden layer of images (batch, pixels) in [0, 1]: (batch, features)."""
        x = checks.width("x", x, self.image.features)

        return self.body(self.image.images(x))

    @checks.takes_arrays
    def forward(self, x: Tensor) -> Tensor:
        """Class logits, (batch, classes)."""
        return self.head(self.features(x))


class ClassifierTraining(LightningModule):
    """Trains a FeatureClassifier: cross-entropy, Adam, a rate that falls linearly to zero.

    Args:
        network: what to train.
        lr: learning rate at the start.

    Raises:
        ValueError: for lr <= 0; during training, for data without labels.
    """

    def __init__(self, network: FeatureClassifier, lr: float = 2e-3) -> None:
        super().__init__()
        self.network = network
        self.lr = checks.at_least("lr", lr, 0.0, strict=True)

    def training_step(self, batch: tuple[Tensor, ...], index: int) -> Tensor:
        """Cross-entropy of a batch (x, y)."""
        x, y, _ = Split.of(batch)
        if y is None:
            raise ValueError("the data set has no labels; a classifier needs them")

        return F.cross_entropy(self.network(x), y)

    def _log_error(self, name: str, batch: tuple[Tensor, ...]) -> None:
        """Logs the fraction of wrong labels under this name."""
        x, y, _ = Split.of(batch)
        error = (self.network(x).argmax(1) != y).float().mean()

        self.log(name, error, prog_bar=True, batch_size=len(x))

    def validation_step(self, batch: tuple[Tensor, ...], index: int) -> None:
        """Logs `val/error`, the fraction of wrong labels."""
        self._log_error("val/error", batch)

    def test_step(self, batch: tuple[Tensor, ...], index: int) -> None:
        """Logs `test/error`."""
        self._log_error("test/error", batch)

    def configure_optimizers(self) -> dict:
        """Adam, with a rate that reaches zero at the end of training."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def save_feature_classifier(network: FeatureClassifier, path: str | Path, facts: dict) -> Path:
    """Write the network and facts about its training to a .safetensors, atomically.

    Raises:
        ValueError: if the suffix is not .safetensors.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    content = {"network": describe(network), "facts": facts}

    return write_checked(Path(path), FORMAT, content, tensors)


def shipped_feature_classifiers() -> dict[str, Path]:
    """Files of the classifiers that come with gendae, by name."""
    return shipped_files(NETWORKS)


def load_feature_classifier(name_or_path: str | Path = "mnist-classifier") -> FeatureClassifier:
    """A trained classifier, frozen: without gradients, in evaluation mode.

    Its attribute `facts` says how it was made. Only data is read: no code of the file is run.

    Args:
        name_or_path: a .safetensors file, or the name of one that comes with gendae.

    Raises:
        FileNotFoundError: if there is no such file or name.
        CheckpointError: (a ValueError) if the file is damaged, foreign, or of another
            architecture.

    Example:
        >>> network = load_feature_classifier()
        >>> network.facts["test_error"] < 0.012, network.train().training
        (True, False)
    """
    path = _classifier_file(name_or_path)
    content, tensors = read_checked(path, FORMAT)

    try:
        with Budget(tensors.values()):
            network = checks.kind("network", build(content["network"]), FeatureClassifier)
        network.facts = dict(content["facts"])
    except Exception as error:  # noqa: BLE001 - a damaged description can ask for anything
        raise CheckpointError(path, f"holds another architecture than it says: {error}") from None

    check_weights(path, network, tensors)
    network.load_state_dict(tensors)
    return network.freeze()


def _classifier_file(name_or_path: str | Path) -> Path:
    """The file of a classifier, given by its path or its name."""
    path = checks.path("classifier", name_or_path)
    if path.is_file():
        return regular_file(path)

    name = str(name_or_path)
    known = shipped_feature_classifiers()
    if name not in known:
        raise FileNotFoundError(
            f"no classifier {name!r}: there is no such file, and "
            f"those that come with gendae are {', '.join(known) or 'none'}"
        )

    return regular_file(known[name])
