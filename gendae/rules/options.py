"""What a Trainer can be asked for: what no rule can follow is refused before a fit writes a file.

A rule makes its own updates, at rates of its own for each layer and direction. Lightning carries
out some options, callbacks and hooks by means that such a rule passes over, or that would leave
the model another one than its record says.
"""

import inspect
import re
import warnings
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    SpikeDetection,
    StochasticWeightAveraging,
)
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities.compile import to_uncompiled
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import nn

from gendae import checks
from gendae.rules.rates import check_optimizer

if TYPE_CHECKING:
    from gendae.rules.shell import Shell

PRECISIONS = ("32-true", "64-true", "bf16-mixed")
#: What weights are trained in.
TYPES = (torch.float32, torch.float64)

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

#: Hooks of a LightningModule that nothing calls where a rule makes the updates: what to use.
UNCALLED = {
    "optimizer_step": "on_before_optimizer_step",
    "optimizer_zero_grad": "on_before_zero_grad",
    "configure_gradient_clipping": "rates.clip",
    "lr_scheduler_step": "begin_update",
}
#: What a subclass may have in the place of a rule's own.
REPLACEABLE = ("on_after_batch_transfer",)


def check(rule: "Shell") -> None:
    """Raise a ValueError for the first option, callback or state that a rule cannot follow."""
    trainer = rule.trainer
    if trainer.precision not in PRECISIONS:
        accepted = ", ".join(PRECISIONS)
        raise ValueError(f"precision={trainer.precision!r} is not supported; accepted: {accepted}")

    predicts = is_overridden("predict_step", rule) or is_overridden("forward", rule)
    if trainer.state.fn == "predict" and not predicts:
        raise ValueError(
            f"Trainer.predict: {type(rule).__name__} has no predict_step; use "
            "rule.stack.encode(x), rule.stack.predict(x) of a classifier, "
            "gendae.generate(rule.stack, n), or a subclass with a predict_step"
        )
    if trainer.state.fn != "fit":
        return

    _check_surroundings()
    _check_state(rule)
    check_options(trainer)
    for callback in trainer.callbacks:
        _check_callback(callback)


def check_options(trainer: Trainer) -> None:
    """Raise a ValueError for an option of a fit that no rule can follow."""
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

    checks.whole("accumulate_grad_batches", trainer.accumulate_grad_batches, 1)


def _check_callback(callback: Callback) -> None:
    name = type(callback).__name__
    for kind, why in REFUSED.items():
        if isinstance(callback, kind):
            raise ValueError(  # noqa: TRY004 - a choice of the user
                f"callbacks={name} is not supported: {why}"
            )

    interval = getattr(callback, "_train_time_interval", None)
    if isinstance(callback, ModelCheckpoint) and interval is not None:
        raise ValueError(
            f"{name}: train_time_interval={interval} would save nothing: Lightning does not look "
            "at the time where a rule makes the updates; use every_n_train_steps"
        )


# -- what a fit finds --------------------------------------------------------------------------


def _check_surroundings() -> None:
    """Raise a ValueError where torch is told to compute no gradients, or no numbers."""
    if torch.is_inference_mode_enabled():
        raise ValueError("Trainer.fit within torch.inference_mode: there are no gradients in it")

    device = torch.get_default_device()
    if device.type == "meta":
        raise ValueError("Trainer.fit under the default device meta, which holds no numbers")


def _check_state(rule: "Shell") -> None:
    """Raise a ValueError unless a rule's weights can be trained."""
    if rule._compiler_ctx is not None:  # of torch.compile(rule), which Lightning has unwrapped
        to_uncompiled(rule)
        raise ValueError(
            "torch.compile(rule) would compile Lightning's own calls, where it fails; compile "
            "layers in place, layer.compile(), or use the callback gendae.Graphs(compile=True)"
        )

    for name, module in rule.named_modules():
        if checks.plain(module) is not module and module is not rule.stack:
            raise ValueError(
                f"{name} was replaced by torch.compile, which names its weights otherwise; "
                "compile it in place, layer.compile()"
            )

    weights = dict(rule.named_parameters())
    for name, value in weights.items():
        _check_weights(name, value)

    kinds = {value.dtype: name for name, value in weights.items()}
    if len(kinds) > 1:
        told = ", ".join(f"{name} is {dtype}" for dtype, name in kinds.items())
        raise ValueError(f"weights are of several types: {told}; use rule.float() or .double()")
    if not any(value.requires_grad for value in weights.values()):
        raise ValueError(
            "nothing learns: no parameter requires a gradient; use rule.requires_grad_()"
        )


def _check_weights(name: str, value: nn.Parameter) -> None:
    if value.is_meta:
        raise ValueError(f"{name} is on the device meta, which holds no numbers")
    if value.is_inference():
        raise ValueError(f"{name} was made within torch.inference_mode: it has no gradient")
    if value.dtype not in TYPES:
        accepted = ", ".join(map(str, TYPES))
        raise ValueError(
            f"{name} is {value.dtype}; accepted: {accepted}: use rule.float() or .double()"
        )


# -- what a subclass defines -------------------------------------------------------------------


def check_optimizers(trainer: Trainer) -> None:
    """Raise a ValueError unless `configure_optimizers` gives what a rule makes its updates with.

    Groups of parameters without an initial rate begin with the rate that they have.
    """
    if trainer.lr_scheduler_configs:
        name = type(trainer.lr_scheduler_configs[0].scheduler).__name__
        raise ValueError(
            f"configure_optimizers gives a {name}, which would never step: rates follow "
            "rates.hold and rates.decline, or an own begin_update"
        )

    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    if len(trainer.optimizers) != 1 or not groups:
        raise ValueError(
            f"configure_optimizers gives {len(trainer.optimizers) if groups else 0} optimizers; "
            "one is needed, with a group of parameters for each rate"
        )

    check_optimizer("configure_optimizers", type(trainer.optimizers[0]))
    for group in groups:
        group.setdefault("initial_lr", group["lr"])


def check_hooks(cls: type["Shell"], shell: type["Shell"]) -> None:
    """Raise a ValueError for hooks that nothing calls; warn where a rule's own may be lost.

    Args:
        cls: the class of a rule.
        shell: the class whose hooks do a rule's own work.
    """
    for name, instead in UNCALLED.items():
        if getattr(cls, name) is not getattr(LightningModule, name):
            raise ValueError(
                f"{cls.__name__}.{name} would never be called: a rule makes its own updates; use "
                f"{instead}"
            )

    own = own_hooks(shell)
    for heir in cls.__mro__[: cls.__mro__.index(shell)]:
        for name in own:
            if name in vars(heir) and not _mentions(vars(heir)[name], name):
                warnings.warn(
                    f"{heir.__name__}.{name} does not call super().{name}(..): what rules do "
                    "there is left out",
                    stacklevel=3,
                )


def own_hooks(shell: type["Shell"]) -> list[str]:
    """Lightning's hooks to which a subclass may add, but which it may not replace."""
    hooks = [name for name in vars(shell) if re.match("on_|configure_|setup$", name)]
    return [name for name in hooks if name not in REPLACEABLE]


def _mentions(hook: Any, name: str) -> bool:  # noqa: ANN401 - a function, or what stands for one
    """Whether a method names another one, as it must to call it; True where that is unknown."""
    code = getattr(inspect.unwrap(hook), "__code__", None)
    if code is None or set(code.co_freevars) - {"__class__"}:  # which may stand for the other one
        return True

    return name in code.co_names
