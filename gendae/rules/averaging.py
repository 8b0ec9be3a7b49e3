"""Averages of weights (EMA) in training: Lightning's callbacks, for models whose prior is fitted.

Lightning averages all tensors of a module. A prior is no average of earlier priors: it is fitted
on the codes of given weights. So only what learns is averaged, and whenever the averages are used
(in validation, in a checkpoint, at the end) a prior is fitted on their codes. The training itself
is the one without averages, bit for bit.
"""

from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from gendae.rules.resume import say
from gendae.storage import verify

if TYPE_CHECKING:
    from gendae.rules.shell import Shell

State = dict[str, Tensor]
#: What `WeightAveraging` adds to a checkpoint, whose own weights are then the averages.
CURRENT = "current_model_state"
COUNTS = "averaging_state"


def with_fitted_priors(callbacks: list[Callback]) -> list[Callback]:
    """What is to take the place of the callbacks among these that average weights."""
    return [_adapted(callback) for callback in callbacks if isinstance(callback, WeightAveraging)]


def _adapted(callback: WeightAveraging) -> Callback:
    """A callback of the same settings and name, whose class also derives from `FittedAverage`."""
    own = type(callback)
    if issubclass(own, FittedAverage):
        return callback

    names = {"__qualname__": own.__qualname__, "__module__": own.__module__}
    adapted = object.__new__(type(own.__name__, (FittedAverage, own), names))
    adapted.__dict__.update(vars(callback))

    return adapted


class AveragedParameters(AveragedModel):
    """Averages of what a rule learns, and of nothing else."""

    def __init__(self, rule: "Shell", **options: Any) -> None:  # noqa: ANN401 - as torch's
        super().__init__(nn.ParameterList(_learned(rule).values()), use_buffers=False, **options)

    def update_parameters(self, model: "Shell") -> None:
        """Take another set of weights into the averages."""
        super().update_parameters(nn.ParameterList(_learned(model).values()))

    def of(self, rule: "Shell") -> State:
        """The averages by the names that a rule has for them."""
        return dict(zip(_learned(rule), self.module.parameters(), strict=True))


class FittedAverage(WeightAveraging):
    """Averages what learns, and fits the prior on the codes of the averages."""

    _average_model: AveragedParameters | None
    _own: State
    _ready: tuple[int, State] | None = None  # the latest averages with their prior, and its step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return

        self._ready = None
        device = self._device or pl_module.device
        self._average_model = AveragedParameters(pl_module, device=device, **self._kwargs)

    # -- where the averages take the place of the weights --------------------------------------

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not _in_fit(trainer):
            return

        self._ready = None  # fits of some priors go on from the one before, which is now another
        averages = self._fitted(pl_module)
        self._own = _copy(pl_module)
        pl_module.load_state_dict(averages)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Other callbacks may still take scores of the averages."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if _in_fit(trainer):
            pl_module.load_state_dict(self._own)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.load_state_dict(self._fitted(pl_module))

    @torch.no_grad()
    def _fitted(self, rule: "Shell") -> State:
        """The averages now, and a prior fitted on their codes."""
        if self._ready is not None and self._ready[0] == rule.global_step:
            return self._ready[1]

        own = _copy(rule)
        rule.load_state_dict(own | self._average_model.of(rule))
        if rule.generative:
            rule.fit_prior(rule.training_batches())

        averages = _copy(rule)
        rule.load_state_dict(own)
        self._ready = (rule.global_step, averages)

        return averages

    # -- checkpoints ---------------------------------------------------------------------------

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._average_model is None:
            return

        checkpoint[CURRENT] = checkpoint["state_dict"]
        checkpoint["state_dict"] = self._fitted(pl_module)
        checkpoint[COUNTS] = {"n_averaged": self._average_model.n_averaged}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._average_model is None:
            return

        for name, average in self._average_model.of(pl_module).items():
            average.data.copy_(checkpoint["state_dict"][name])

        if CURRENT in checkpoint:
            verify.check_weights(trainer.ckpt_path, pl_module, checkpoint[CURRENT])
            pl_module.load_state_dict(checkpoint[CURRENT])
            self._average_model.load_state_dict(checkpoint[COUNTS], strict=False)
        else:
            say(trainer, "the averages of weights begin with the weights of the checkpoint")


def tell_of_end(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Say so where a training goes on from averages, and keeps none itself."""
    averages = any(isinstance(callback, FittedAverage) for callback in trainer.callbacks)
    if CURRENT in checkpoint and not averages:
        say(
            trainer,
            "goes on from the checkpoint's averages of weights: this run has no callback that "
            "averages",
        )


def _learned(rule: "Shell") -> dict[str, nn.Parameter]:
    """All parameters but those of priors, which are fitted."""
    fitted = tuple(rule.priors())
    return {name: p for name, p in rule.named_parameters() if not name.startswith(fitted)}


def _in_fit(trainer: Trainer) -> bool:
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def _copy(rule: LightningModule) -> State:
    """A copy of all weights and fitted tensors."""
    return {name: value.clone() for name, value in rule.state_dict().items()}
