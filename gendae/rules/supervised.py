"""What rules for classifiers share: labels, optimizers, input noise, validation by error rate."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Generator, Tensor, nn

from gendae import checks
from gendae.corruption import Corruption
from gendae.layers.affine import Affine
from gendae.models.classifier import Classifier
from gendae.registry import build
from gendae.rules.base import PerLayer, Rule
from gendae.rules.processes import log_means

OPTIMIZERS = ("adam", "rmsprop", "sgd")
#: Constants of the original RMSprop: averaging and momentum. Its stabiliser 1e-3 stands inside the
#: square root, torch's outside: where gradients are small, the root of 1e-3 has the same effect.
RMSPROP = {"alpha": 0.95, "momentum": 0.9, "eps": math.sqrt(1e-3), "centered": True}
MOMENTUM = 0.9


class Thaw(Callback):
    """Idle maps learn again after a crash, of which Lightning tells callbacks only."""

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        pl_module.teardown("fit")


class SupervisedRule(Rule):
    """Base class of the rules that train a `Classifier`: batches are (x, y), y class indices.

    `best.ckpt` is the epoch of the lowest error on validation images. The layers are numbered 1 ..
    M = L + 1, with the output layer as f_M; there is no g_M.

    Args:
        stack: the classifier.
        optimizer: "adam" (AdamW), "rmsprop" (centred, momentum 0.9: the original experiments) or
            "sgd" (momentum 0.9).
        input_corruption: noise on x in training; None for none.
        samples: draws M of stochastic units for each image in training.
        eval_samples: draws in validation, test and prediction.
        lr_f, weight_decay_f: of f_1 .. f_M; a number, or one for each of the M layers. Decay is
            decoupled for "adam", a term of the gradient for the others.
        lr_g, weight_decay_g: of g_1 .. g_L, likewise.
        hold, log_every: see `Rule`.

    Raises:
        ValueError: for a stack without output layer, unknown names, lists of a wrong length,
            networks that the rule cannot train; in training, for batches without labels and for
            labels of a wrong type or range.
    """

    generative = False
    score = ("val/error", "min")

    def __init__(
        self,
        stack: Classifier,
        optimizer: str = "adam",
        input_corruption: Corruption | None = None,
        samples: int = 1,
        eval_samples: int = 100,
        lr_f: PerLayer = 1e-3,
        lr_g: PerLayer = 1e-3,
        weight_decay_f: PerLayer = 0.0,
        weight_decay_g: PerLayer = 0.0,
        hold: float = 0.0,
        log_every: int = 50,
    ) -> None:
        stack = build(stack)
        if not isinstance(stack, Classifier):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"stack={type(stack).__name__} has no output layer; {type(self).__name__} trains "
                "a Classifier"
            )
        super().__init__(stack, lr_f, lr_g, weight_decay_f, weight_decay_g, hold, log_every)

        self.optimizer = checks.one_of("optimizer", optimizer, OPTIMIZERS)
        self.input_corruption: Corruption | None = build(input_corruption)
        self.samples = checks.whole("samples", samples, 1)
        self.eval_samples = checks.whole("eval_samples", eval_samples, 1)
        self.stack.settings = {"samples": self.eval_samples}

    # -- networks a rule can train -------------------------------------------------------------

    def refuse(self, reason: str) -> None:
        """Raise: this rule does not support this network."""
        raise ValueError(f"{type(self).__name__} does not support this network: {reason}")

    def need_affine(self) -> None:
        """Raise unless every encoder is one affine layer."""
        for level, f in enumerate(self.stack.encoders, 1):
            if not isinstance(f, Affine):
                self.refuse(
                    f"f_{level} is {type(f).__name__}, and the rule is stated for affine layers"
                )

    def need_continuous(self, fixed: int = 0) -> None:
        """Raise if bits or draws lie above a layer that learns: all but the lowest `fixed` do."""
        levels = [level for level in self.stack.discrete_levels if level > fixed]
        if levels:
            self.refuse(
                f"h_{levels[0]} is transmitted as bits, through which no derivative passes; "
                "accepted: DifferenceTargetPropRule, StraightThroughRule, or BackpropRule with "
                f"fixed={levels[-1]}"
            )

    # -- the hole that Rule leaves -------------------------------------------------------------

    def maps(self, direction: str) -> list[list[object]]:
        maps = super().maps(direction)
        if direction == "f":
            maps.append([self.stack.output])

        return maps

    def optimizer_of(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        if self.optimizer == "rmsprop":
            return torch.optim.RMSprop(groups, **RMSPROP)
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, momentum=MOMENTUM)

        return super().optimizer_of(groups)

    def labelled(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """x, with the rule's noise if there is any, and its labels.

        The labels are checked where that costs no synchronisation.
        """
        if len(batch) < 2:
            raise ValueError(
                "the batch has no labels; a classifier learns from (x, y): use a data set with "
                "labels, or Images with labels=FILE"
            )

        x = batch[0]
        checks.rows("x", checks.width("x", x, self.stack.sizes[0]))

        # a Trainer's batches are checked by `check_data` and `on_before_batch_transfer`
        classes = self.stack.classes if self._trainer is None else None
        y = checks.labels("y", batch[1], len(x), classes)

        if self.input_corruption is not None:
            x = self.input_corruption(x, self.progress, self.generator)

        return x, y

    @property
    def draws(self) -> Generator:
        """Source of the draws of stochastic units in training."""
        return self.generator or torch.default_generator

    @property
    def copies(self) -> int:
        """M where units are drawn, else 1."""
        if self.stack.stochastic:
            return self.samples

        return 1

    def idle(self) -> list[nn.Module]:
        """Maps that this rule does not train: the decoders, unless it says otherwise."""
        return [*self.laws(), *(pair.g for pair in self.stack.pairs)]

    def laws(self) -> list[nn.Module]:
        """Laws around the maps with parameters of their own, which no classifier learns."""
        laws = []
        for pair in self.stack.pairs:
            laws += [pair.recognition, pair.observation]

        return laws

    def setup(self, stage: str) -> None:
        """Stop gradients of idle maps while the rule trains.

        Several processes wait for the gradient of every parameter that asks for one.
        """
        self._frozen = []
        for module in self.idle():
            self._frozen += [p for p in module.parameters() if p.requires_grad]

        for p in self._frozen:
            p.requires_grad_(False)

    def teardown(self, stage: str) -> None:
        for p in getattr(self, "_frozen", ()):  # nothing, where the start failed
            p.requires_grad_(True)

    def configure_callbacks(self) -> list[Callback]:
        return [Thaw()]

    # -- validation and test -------------------------------------------------------------------

    def check_data(self, data: object) -> None:
        """Raise a ValueError unless both splits have images and labels that fit the classifier."""
        if not hasattr(data, "split"):
            return

        for name in ("train", "valid"):
            x, y = data.split(name)
            if y is None:
                raise ValueError(
                    f"{type(data).__name__} has no labels; a classifier learns from (x, y): use a "
                    "data set with labels, or Images with labels=FILE"
                )
            checks.width(f"{type(data).__name__} {name} images", x, self.stack.sizes[0])
            checks.labels(f"labels of the {name} images", y, len(x), self.stack.classes)

    def on_train_start(self) -> None:
        """Check the data once, before the first update."""
        self.check_data(getattr(self.trainer, "datamodule", None))

    def on_before_batch_transfer(
        self, batch: Sequence[Tensor], dataloader_idx: int
    ) -> Sequence[Tensor]:
        """Check labels while they are on the CPU: a device would only notice bad ones by dying."""
        if len(batch) > 1 and batch[1].device.type == "cpu":
            checks.labels("y", batch[1], len(batch[0]), self.stack.classes)

        return batch

    def on_validation_epoch_start(self) -> None:
        self._eval_draws = Generator().manual_seed(0)  # as in `Classifier.predict`

    def on_test_epoch_start(self) -> None:
        self._eval_draws = Generator().manual_seed(0)

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._log_error("val", batch)

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._log_error("test", batch)

    def _log_error(self, split: str, batch: Sequence[Tensor]) -> None:
        """Fraction of wrong labels, and the loss in nats; draws are the same each time."""
        if len(batch) < 2:
            raise ValueError("the batch has no labels; the error of a classifier needs them")

        x = batch[0]
        y = checks.labels("y", batch[1], len(x), self.stack.classes)
        log_p = self.stack.log_probability(x, self.eval_samples, self._eval_draws)

        values = {
            f"{split}/error": (log_p.argmax(1) != y).float().mean(),
            f"{split}/loss": torch.nn.functional.nll_loss(log_p, y),
        }
        log_means(self, values, len(x), prog_bar=True)
