"""What rules for classifiers share: labels, optimizers, input noise, validation by error rate."""

from collections.abc import Sequence
from dataclasses import replace

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Generator, Tensor, nn

from gendae import checks
from gendae.corruption import Corruption
from gendae.data.loader import Split
from gendae.layers.affine import Affine
from gendae.models.classifier import Classifier, error_of, label_loss, loss_of
from gendae.models.settings import Settings
from gendae.registry import build, built
from gendae.rules.labels import LabelRule
from gendae.rules.moment import Moment
from gendae.rules.processes import log_means
from gendae.rules.rates import Maps, Rates


class Thaw(Callback):
    """Idle maps learn again after a crash, of which Lightning tells callbacks only."""

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        pl_module.teardown("fit")


class SupervisedRule(LabelRule):
    """Base class of the rules that train a `Classifier`: batches are (x, y).

    y is class indices, or the values that the network is to predict.

    `best.ckpt` is the epoch of the lowest error on validation images. The layers are numbered 1 ..
    M = L + 1, with the output layer as f_M; there is no g_M.

    Args:
        stack: the classifier.
        input_corruption: noise on x in training; None for none.
        samples: draws M of stochastic units for each image in training. Validation, test and
            prediction take `stack.settings.samples` of them, 100 where it is not set.
        rates: of f_1 .. f_M and g_1 .. g_L; see `Rates`.
        log_every: see `Rule`.

    Raises:
        ValueError: for a stack without output layer, unknown names, lists of a wrong length,
            networks that the rule cannot train; in training, for batches without labels and for
            labels of a wrong type or range.
    """

    generative = False
    score = ("val/error", "min")
    DEFAULT_SETTINGS = Settings(samples=100)

    def __init__(
        self,
        stack: Classifier,
        input_corruption: Corruption | None = None,
        samples: int = 1,
        rates: Rates = Rates(),
        log_every: int = 50,
    ) -> None:
        stack = build(stack)
        if not isinstance(stack, Classifier):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"stack={type(stack).__name__} has no output layer; {type(self).__name__} trains "
                "a Classifier"
            )
        stack.settings = replace(stack.settings, settling=None)  # as a rule before had it
        super().__init__(stack, rates, log_every)

        self.input_corruption: Corruption | None = None
        if input_corruption is not None:
            self.input_corruption = built("input_corruption", input_corruption, Corruption)
        if self.input_corruption is not None and getattr(self.stack.pairs[0].f, "masked", False):
            self.refuse("its inputs say which steps there are, and noise would change that")

        self.samples = checks.whole("samples", samples, 1, checks.REPEATS)

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

    def need_one_answer(self) -> None:
        """Raise for networks that answer at every step of an example."""
        if self.stack.steps is not None:
            self.refuse("it answers at every step; accepted: one answer for each example")

    # -- the hole that Rule leaves -------------------------------------------------------------

    def maps(self) -> Maps:
        maps = super().maps()
        return {"f": [*maps["f"], [self.stack.output]], "g": maps["g"]}

    def check_labels(self, name: str, y: Tensor, n: int, look: bool = True) -> Tensor:
        return self.stack.answers(name, y, n, look)

    def losses(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> dict[str, Tensor]:
        """Local losses of x, with noise if the rule has some, and its labels; batch is (x, y)."""
        x, y = self.labelled(batch)
        if self.input_corruption is not None:
            x = self.input_corruption(x, moment.progress, moment.generator)

        return self.losses_of(x, y, moment)

    def losses_of(self, x: Tensor, y: Tensor, moment: Moment) -> dict[str, Tensor]:
        """Local losses of x as it is, and its labels, mean over the batch: what a variant defines.

        Args:
            x: (batch, width of x).
            y: class indices, (batch,).
            moment: of the update.
        """
        raise NotImplementedError(f"{type(self).__name__} must define losses_of")

    def total_loss(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> Tensor:
        x, y = self.labelled(batch)
        return sum(self.losses_of(x, y, moment).values())

    def global_loss(self, batch: Sequence[Tensor], moment: Moment = Moment()) -> Tensor:
        """Cross-entropy of the labels, in nats."""
        x, y = self.labelled(batch)
        return label_loss(self.stack(x, self.copies, moment.generator), y)

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
        super().setup(stage)

        self._frozen = []
        for module in self.idle():
            self._frozen += [p for p in module.parameters() if p.requires_grad]

        for p in self._frozen:
            p.requires_grad_(False)

    def teardown(self, stage: str) -> None:
        for p in getattr(self, "_frozen", ()):  # nothing, where the start failed
            p.requires_grad_(True)

    def configure_callbacks(self) -> list[Callback]:
        return [*super().configure_callbacks(), Thaw()]

    # -- validation and test -------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._eval_draws = Generator().manual_seed(0)  # as in `Classifier.predict`

    def on_test_epoch_start(self) -> None:
        self._eval_draws = Generator().manual_seed(0)

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._log_error("val", batch)

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._log_error("test", batch)

    def _log_error(self, split: str, batch: Sequence[Tensor]) -> None:
        """Fraction of wrong labels, and the loss in nats; draws are the same each time.

        The error of values is their squared distance.
        """
        x, y, _ = Split.of(batch)
        if y is None:
            raise ValueError("the batch has no labels; the error of a classifier needs them")

        y = self.check_labels("y", y, len(x))
        answer = self.stack.answer(x, self.stack.settings.samples, self._eval_draws)

        values = {
            f"{split}/error": error_of(answer, y),
            f"{split}/loss": loss_of(answer, y),
        }
        log_means(self, values, len(x), prog_bar=True)
