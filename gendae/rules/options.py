"""What a Trainer can be asked for: what no rule can follow is refused before a fit writes a file.

A rule makes its own updates, at rates of its own for each layer and direction. Lightning carries
out some options and callbacks by means that such a rule passes over, or that would leave the model
another one than its record says.
"""

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    SpikeDetection,
    StochasticWeightAveraging,
)
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

PRECISIONS = ("32-true", "64-true", "bf16-mixed")

#: Lightning's callbacks that no rule can follow: why not, and what to use.
REFUSED: dict[type[Callback], str] = {
    BaseFinetuning: "it adds parameter groups without a rate of their own; use 0 in rates.f and "
    "rates.g for layers that are to stay as they are",
    BatchSizeFinder: "an update means another thing in batches of another size; set "
    "data.batch_size",
    GradientAccumulationScheduler: "a training has updates of one size; use "
    "trainer.accumulate_grad_batches",
    LearningRateFinder: "each layer and direction has a rate of its own; set rates.f and rates.g",
    ModelPruning: "it would replace weights after the prior was fitted on their codes; use "
    "rates.decay_f and rates.decay_g",
    SpikeDetection: "it watches one loss of all layers; a loss that is not finite ends a training "
    "in any case",
    StochasticWeightAveraging: "its rates would be overwritten by those of `Rates`; use "
    "WeightAveraging or EMAWeightAveraging",
}


def check(trainer: Trainer) -> None:
    """Raise a ValueError for the first option or callback that a rule cannot follow."""
    if trainer.precision not in PRECISIONS:
        accepted = ", ".join(PRECISIONS)
        raise ValueError(f"precision={trainer.precision!r} is not supported; accepted: {accepted}")

    if trainer.state.fn != "fit":
        return

    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        raise ValueError(  # noqa: TRY004 - a choice of the user
            f"strategy={type(trainer.strategy).__name__}: every process needs all weights, whose "
            "codes the prior is fitted on; accepted: auto, ddp"
        )

    clip = trainer.gradient_clip_val
    if clip:
        raise ValueError(
            f"gradient_clip_val={clip} would clip all layers by one norm; use "
            f"rates.clip={clip} (--model.rates.clip), which clips each layer and direction"
        )

    for callback in trainer.callbacks:
        _check_callback(callback)


def _check_callback(callback: Callback) -> None:
    for kind, why in REFUSED.items():
        if isinstance(callback, kind):
            name = type(callback).__name__
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"callbacks={name} is not supported: {why}"
            )
