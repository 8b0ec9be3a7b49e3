"""The public interface as its users write it, for mypy alone: the annotations are the assertions.

Nothing runs this file. A name that loses its type, or an argument that a role's members no longer
take, is an error of mypy's here.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch import Generator, Tensor
from torch.distributions import Distribution, Laplace

import gendae
from gendae import Affine, GaussianNoise, GaussianPrior, Pair, SpikeNoise, Stack
from gendae.inference import Representations
from gendae.layers.wrapped import Layer

# -- README ---------------------------------------------------------------------------------------


def build() -> Stack:
    return Stack(
        Pair(f=Affine(784, 1000, "softplus"), g=Affine(1000, 784, "sigmoid")),
        Pair(f=Affine(1000, 100, "sigmoid"), g=Affine(100, 1000, "softplus")),
        prior=GaussianPrior(variance_scale=4.0),
    )


def train(stack: Stack) -> None:
    rule: gendae.Rule = gendae.VariationalEMRule(
        stack,
        inference=gendae.TargetPropInference(steps=15, delta=0.1, alpha=0.001),
        corruption=[GaussianNoise(0.5), GaussianNoise(0.3), SpikeNoise(draws=3)],
        rates=gendae.Rates(f=1e-3, g=[1e-3, 3e-3]),
    )
    losses: dict[str, Tensor] = rule.losses((torch.rand(2, 784),), gendae.Moment(progress=0.5))
    total: Tensor = torch.stack(list(losses.values())).sum()
    total.backward()

    optimizer: torch.optim.Optimizer = rule.configure_optimizers()
    optimizer.step()

    Trainer(max_epochs=20).fit(rule, gendae.MNIST())
    gendae.save(stack, "mine.safetensors")


def use(stack: Stack) -> None:
    x: Tensor = gendae.generate(stack, 64, seed=0)
    left: Tensor = gendae.named_mask("left", (28, 28))
    y: Tensor = gendae.inpaint(stack, x, left, seed=0)
    codes: Tensor = stack.encode(x)[-1]
    again: Tensor = stack.reconstruct(y)
    widths: Tensor = stack.residuals
    log_p: Tensor = stack.log_joint(stack.encode(again), prior=False)
    print(codes, widths, log_p, gendae.ParzenLogLikelihood(x, sigma=0.2))


def look_inside(stack: Stack) -> None:
    pair: Pair = stack.pairs[0]
    above: list[Pair] = list(stack.pairs[1:])
    f: Layer = pair.f
    width: int = f.out_features
    activation: str | None = pair.g.activation
    law: gendae.Law = pair.observation
    h: Tensor = pair.f(torch.rand(2, 784))
    q: Distribution = pair.q(h)
    prior: gendae.Prior = stack.prior.fit(h)
    print(above, width, activation, law.energy(h, h), q, prior.sample(3))


def load() -> None:
    stack: Stack = gendae.load("mnist-variational-em")
    sampler: gendae.Sampler = stack.settings.sampler or gendae.GenerateSampler(rounds=3)
    x: Tensor = sampler(stack, 10, torch.Generator().manual_seed(0))

    network: gendae.Classifier = gendae.pretrained_classifier("mnist-dtp-tanh")
    labels: Tensor = network.predict(x, samples=3).argmax(1)
    output: Affine = network.output
    print(labels, output.weight)


def join() -> None:
    image = gendae.Modality(8, "pixels", [Pair(Affine(8, 4, "tanh"), Affine(4, 8, "sigmoid"))])
    top = gendae.Junction(Affine(4 + 3 + 2, 5, "tanh"), Affine(5, 4 + 3))
    label = gendae.Modality(3, "onehot")
    joint = gendae.JointStack({"image": image, "label": label}, [top])

    given: dict[str, Tensor] = {"image": torch.rand(2, 8)}
    guess: Tensor = joint.predict(given, "label")
    completer: gendae.Completer = gendae.Completer.map(rounds=5, tolerance=0.0)
    values: dict[str, Tensor] = gendae.complete(joint, given, completer=completer, seed=0).values
    print(guess, values["label"])


def measure(x: Tensor, y: Tensor) -> None:
    log_p: Tensor = gendae.parzen_log_prob(x, y, 0.2)
    print(log_p)


# -- a variant of each role -----------------------------------------------------------------------


class AutoencoderRule(gendae.Rule):
    def losses(
        self, batch: Sequence[Tensor], moment: gendae.Moment = gendae.Moment()
    ) -> dict[str, Tensor]:
        x = batch[0]
        return {"x_1": (self.stack.reconstruct(x) - x).square().sum(-1).mean()}


@gendae.register
class ExponentialPrior(gendae.Prior):
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(0))

    def estimate(self, codes: Tensor) -> None:
        self.mean = codes.mean(0)

    def log_prob(self, h: Tensor) -> Tensor:
        return -(h / self.mean + self.mean.log()).sum(-1)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        return -self.mean * torch.rand(n, len(self.mean), generator=generator).log()


class UpAndDown(gendae.Inference):
    def begin(
        self, stack: Stack, h: Representations, mask: Tensor | None, generator: Generator | None
    ) -> Callable[[Representations], Representations]:
        def step(h: Representations) -> Representations:
            up = stack.feedforward(stack.down(h[-1])[0])
            return tuple(torch.lerp(a, b, self.delta) for a, b in zip(h, up, strict=True))

        return step


class ShortLoopSampler(gendae.Sampler):
    def step(
        self, stack: Stack, h: Representations, generator: Generator | None
    ) -> Representations:
        bottom = stack.pairs[0]
        h_1 = bottom.encode(h[0], generator)
        return (bottom.decode(h_1), h_1, *h[2:])


@gendae.register(aliases=["Blankout"])
class Dropout(gendae.Corruption):
    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(
        self, h: Tensor, progress: float | Tensor = 0.0, generator: Generator | None = None
    ) -> Tensor:
        return h * (torch.rand(h.shape, generator=generator) >= self.p)


class LaplaceLaw(gendae.Law):
    def distribution(self, mean: Tensor, given: Tensor | None = None) -> Distribution:
        return Laplace(mean, 1.0, validate_args=False)


class Walks(gendae.Data):
    kind = "vector"

    def read(self) -> tuple[dict[str, gendae.Split], tuple[int, int]]:
        split = gendae.Split(torch.randn(500, 8).cumsum(1))
        return {"train": split, "valid": split.rows(slice(100)), "test": split}, (1, 8)


def wrap(data: Walks) -> None:
    split: gendae.Split = data.split("train")
    x: Tensor = split.x
    y: Tensor | None = split.y
    noisy: Tensor = Dropout(0.5)(x, progress=torch.tensor(0.5))
    stack: Stack = gendae.stack_of([gendae.TiedPair(8, 3, recognition=LaplaceLaw())])
    rule = AutoencoderRule(stack, log_every=10)
    sampler = ShortLoopSampler(rounds=5)
    prior: gendae.Prior = ExponentialPrior().fit(x)
    h: Representations = UpAndDown(steps=3)(rule.stack, x)
    print(y, noisy, sampler, prior, h)


def own_data(array: np.ndarray, labels: Tensor, pairs: torch.utils.data.TensorDataset) -> None:
    stored: gendae.Data = gendae.Images("images.npz", shape=[8, 8], color="grey")
    listed = gendae.Images(["a.png", "b.png"], valid_fraction=0.2)
    held = gendae.Images(array, labels=labels)
    names: tuple[str, ...] = gendae.Images(pairs).classes
    print(stored, listed, held.split("test").x, names, gendae.Images(Path("photos")))
