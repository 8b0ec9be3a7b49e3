"""Does what a checkpoint holds belong to this model? Asked of all of it before anything is loaded.

Lightning loads tensor by tensor, and cuts the longer of two lists of optimizers: a checkpoint of another model would be
noticed late, or not at all.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from gendae.checkpointing import CheckpointError
from gendae.loader import TensorLoader
from gendae.spec import REGISTRY, Plain, build, describe

#: What a .ckpt needs to be a model of gendae, and further to be trained on.
MODEL_KEYS = ("gendae", "hyper_parameters", "state_dict")
TRAINING_KEYS = ("optimizer_states", "lr_schedulers", "loops", "epoch", "global_step")
#: What a `Rule` takes from a checkpoint itself when it goes on.
CONTINUED = (
    "gendae",
    "generator",
    "recent_codes",
    "prior_fitted_at",
    "prior_due",
    "global_step",
    "loops",
)
#: Settings of parameter groups that only some optimizers have: they tell them apart.
OPTIMIZER_MARKS = {"betas", "momentum", "alpha", "rho", "lr_decay"}
#: What a description of a stack says of its beginning, and its prior, which is fitted anew.
BEGINNING = ("init", "gain", "prior")


def check(path: str | Path, checkpoint: Any, rule: Any, training: bool) -> None:  # noqa: ANN401
    """Raise a CheckpointError unless a rule can take this checkpoint whole.

    Args:
        path: the file, for the message.
        checkpoint: its content.
        rule: the `Rule` that is to take it.
        training: to go on with its training, not only to use its weights.
    """
    check_content(path, checkpoint, type(rule).__name__, training)
    theirs, ours = checkpoint["hyper_parameters"].get("stack"), describe(rule.stack)
    if getattr(rule, "tie_noise", False):
        theirs, ours = untied(theirs), untied(ours)
    found = difference(theirs, ours)
    if found is not None:
        raise CheckpointError(path, f"holds another architecture: {found}")
    check_weights(path, rule, checkpoint["state_dict"])
    for name, prior in (
        ("stack.prior.", rule.stack.prior),
        ("training_prior.", getattr(rule, "training_prior", None)),
    ):
        if prior is not None:
            check_prior(path, prior, checkpoint["state_dict"], name, rule.stack.sizes[-1])
    if training:
        check_optimizers(
            path, optimizers_of(rule.configure_optimizers()), checkpoint["optimizer_states"]
        )


def difference(theirs: Plain, ours: Plain, where: str = "stack") -> str | None:
    """The first difference of two descriptions, in words; arguments that only one of them has are passed over.

    Example:
        >>> difference({"type": "Affine", "activation": "tanh"}, {"type": "Affine", "activation": "relu", "init": "uniform"})
        "stack.activation is 'tanh', the model's is 'relu'"
    """
    if isinstance(theirs, dict) and isinstance(ours, dict):
        pairs = [
            (f"{where}.{key}", theirs[key], ours[key])
            for key in theirs
            if key in ours and key not in BEGINNING
        ]
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        pairs = [(f"{where}.{i}", a, b) for i, (a, b) in enumerate(zip(theirs, ours, strict=True))]
    elif isinstance(theirs, list) and isinstance(ours, list):
        return f"{where} has {len(theirs)} entries, the model's has {len(ours)}"
    else:
        return (
            None
            if theirs == ours
            else f"{where} is {_short(theirs)}, the model's is {_short(ours)}"
        )
    return next(
        (found for found in (difference(a, b, name) for name, a, b in pairs) if found), None
    )


def untied(stack: Plain) -> Plain:
    """A described stack without the top encoder's law, which `tie_noise` sets anew whenever the prior is fitted."""
    try:
        *below, top = stack["pairs"]
        return {**stack, "pairs": [*below, {k: v for k, v in top.items() if k != "recognition"}]}
    except (TypeError, KeyError, ValueError, AttributeError):
        return stack


def take_tied_noise(rule: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ANN401
    """Go on with that law as it was."""
    if getattr(rule, "tie_noise", False):
        rule.stack.pairs[-1].recognition = build(
            checkpoint["hyper_parameters"]["stack"]["pairs"][-1]["recognition"]
        )


def _short(value: Plain) -> str:
    return value["type"] if isinstance(value, dict) and "type" in value else repr(value)[:60]


def some(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(list(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def check_content(
    path: str | Path,
    content: Any,  # noqa: ANN401
    rule: str | None = None,
    training: bool = False,
) -> None:
    """Raise a CheckpointError unless the parts of a model (or of a training) are there, written by this rule."""
    if not isinstance(content, dict) or not isinstance(content.get("gendae"), dict):
        raise CheckpointError(path, "a checkpoint, but not one that gendae wrote")
    lacking = [key for key in MODEL_KEYS if not isinstance(content.get(key), dict)]
    lacking += [
        f"gendae.{key}"
        for key, kind in (("rule", str), ("facts", dict))
        if not isinstance(content["gendae"].get(key), kind)
    ]
    if lacking:
        raise CheckpointError(path, f"damaged: it lacks {some(lacking)}")
    strangers = [
        name for name, value in content["state_dict"].items() if not isinstance(value, Tensor)
    ]
    if strangers:
        raise CheckpointError(path, f"damaged: {some(strangers)} are no tensors")
    if rule is not None and content["gendae"]["rule"] != rule:
        raise CheckpointError(
            path, f"holds a model that {content['gendae']['rule']} trained, not {rule}"
        )
    lacking = [key for key in TRAINING_KEYS if key not in content]
    if training and lacking:
        raise CheckpointError(
            path, f"holds weights, but no training that could go on: it lacks {some(lacking)}"
        )


def check_finite(path: str | Path, tensors: dict[str, Tensor], what: str = "weights") -> None:
    """Raise a CheckpointError for NaN and infinite values."""
    bad = non_finite(tensors)
    if bad:
        raise CheckpointError(path, f"holds NaN or infinite {what} in {some(bad)}")


def non_finite(tensors: dict[str, Tensor]) -> list[str]:
    """Names of those that hold NaN or infinite values."""
    return [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]


def non_finite_parts(checkpoint: dict[str, Any]) -> str:
    """Names of weights and optimizer states that hold NaN or infinite values; empty, where none does."""
    bad = non_finite(checkpoint["state_dict"])
    for optimizer in checkpoint.get("optimizer_states", ()):
        for index, values in optimizer["state"].items():
            bad += non_finite(
                {
                    f"{k} of parameter {index}": v
                    for k, v in values.items()
                    if isinstance(v, Tensor)
                }
            )
    return some(bad)


def check_weights(
    path: str | Path, module: nn.Module, tensors: dict[str, Tensor], exact: bool = True
) -> None:
    """Raise a CheckpointError unless the module can take all these tensors, which are finite, and needs no others.

    Args:
        path: the file that the tensors are from.
        module: what they are for. Of modules that fit themselves to what they load (priors), shapes are free.
        tensors: what the file holds.
        exact: the precision must be the module's own.
    """
    own, free = module.state_dict(), _free_shapes(module)
    other = "holds another architecture: "
    missing, unexpected = (
        [k for k in own if k not in tensors],
        [k for k in tensors if k not in own],
    )
    if missing or unexpected:
        lines = [
            f"{some(names)} {verb}"
            for names, verb in ((missing, "missing"), (unexpected, "unexpected"))
            if names
        ]
        raise CheckpointError(path, other + "; ".join(lines))
    for name, value in tensors.items():
        if value.shape != own[name].shape and name not in free:
            raise CheckpointError(
                path,
                f"{other}{name} has shape {tuple(value.shape)}, the model's has "
                f"{tuple(own[name].shape)}",
            )
        if not same_kind(value, own[name], exact):
            raise CheckpointError(
                path, f"{other}{name} is of type {value.dtype}, the model's of {own[name].dtype}"
            )
    check_finite(path, tensors)


def check_prior(
    path: str | Path, prior: nn.Module, tensors: dict[str, Tensor], name: str, width: int
) -> None:
    """Raise a CheckpointError unless a copy of a prior, whose shapes are free, works with what it loads.

    Args:
        path: the file that the tensors are from.
        prior: what they are for; it stays as it is.
        tensors: what the file holds.
        name: how those of the prior begin.
        width: of the codes.
    """
    trial = copy.deepcopy(prior)
    try:
        trial.load_state_dict(
            {key[len(name) :]: value for key, value in tensors.items() if key.startswith(name)}
        )
        if trial.fitted:
            number = next((b for b in trial.buffers() if b.is_floating_point()), torch.empty(0))
            trial.reconstruct(number.new_zeros(2, width))
    except (RuntimeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            path, f"holds another architecture: its prior does not work: {reason}"
        ) from None


def same_kind(value: Tensor, own: Tensor, exact: bool) -> bool:
    """Whether both are of one type; unless exact, of any precision."""
    return value.dtype == own.dtype or (
        not exact and value.is_floating_point() and own.is_floating_point()
    )


def _free_shapes(module: nn.Module) -> set[str]:
    """Names of buffers whose shape is known once they are loaded."""
    usual = nn.Module._load_from_state_dict
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        if type(part)._load_from_state_dict is not usual
        for name, _ in part.named_buffers(recurse=False)
    }


def check_optimizers(
    path: str | Path, optimizers: Sequence[Optimizer], states: Sequence[dict[str, Any]]
) -> None:
    """Raise a CheckpointError unless each optimizer can go on from its state. (Lightning cuts the longer list.)"""
    if len(states) != len(optimizers):
        raise CheckpointError(
            path, f"holds the state of {len(states)} optimizers; the model has {len(optimizers)}"
        )
    for optimizer, state in zip(optimizers, states, strict=True):
        groups, saved = optimizer.param_groups, state["param_groups"]
        if [_group(g) for g in groups] != [_group(g) for g in saved]:
            raise CheckpointError(
                path,
                "holds the state of another optimizer, or of one over other layers: "
                f"{_groups(saved)}; the model's is {_groups(groups)}",
            )
        parameters = [p for g in groups for p in g["params"]]
        for index, values in state["state"].items():
            _check_parameter_state(path, int(index), parameters, values)
        rates = {
            f"{g.get('name', 'group')}.{k}": torch.tensor(float(g[k]))
            for g in saved
            for k in ("lr", "weight_decay")
        }
        check_finite(path, rates, "rates")


def _check_parameter_state(
    path: str | Path, index: int, parameters: list[Tensor], values: dict[str, Any]
) -> None:
    tensors = {
        f"{name} of parameter {index}": v for name, v in values.items() if isinstance(v, Tensor)
    }
    shapes = {tuple(v.shape) for v in tensors.values() if v.ndim}
    if index >= len(parameters) or shapes - {tuple(parameters[index].shape)}:
        raise CheckpointError(
            path,
            f"its optimizer's state of parameter {index} does not fit: shape {some(sorted(map(str, shapes)))}",
        )
    check_finite(path, tensors, "optimizer states")


def _group(group: dict[str, Any]) -> tuple[str | None, int, frozenset[str]]:
    return group.get("name"), len(group["params"]), frozenset(OPTIMIZER_MARKS & set(group))


def _groups(groups: Sequence[dict[str, Any]]) -> str:
    marks = sorted(OPTIMIZER_MARKS & set(groups[0])) if groups else []
    return f"{len(groups)} groups of {', '.join(str(len(g['params'])) for g in groups)} tensors with {', '.join(marks)}"


def optimizers_of(configured: Any) -> list[Optimizer]:  # noqa: ANN401 - all that `configure_optimizers` may return
    """The optimizers among what a module's `configure_optimizers` returns."""
    if isinstance(configured, Optimizer):
        return [configured]
    if isinstance(configured, dict):
        return [configured["optimizer"]]
    if isinstance(configured, tuple) and configured and isinstance(configured[0], list | tuple):
        return list(configured[0])
    return [o for part in configured or () for o in optimizers_of(part)]


# -- facts about the data ------------------------------------------------------------------------------------


def portable(data: dict[str, Any]) -> dict[str, Any]:
    """A described data set without the folders of this machine."""
    return {
        key: portable(value) if isinstance(value, dict) else value
        for key, value in data.items()
        if key != "root"
    }


def facts_of(data: Any) -> dict[str, Plain]:  # noqa: ANN401 - any data module, or None
    """What a trained model remembers of a registered data set."""
    if data is None or REGISTRY.get(type(data).__name__) is not type(data):
        return {}
    shapes = {"shapes": data.shapes} if hasattr(data, "shapes") else {}
    return {"dataset": portable(describe(data)), "shape": list(data.shape), **shapes}


# -- what Lightning passes over ------------------------------------------------------------------------------


def continue_order(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Let gendae's loader go on where it was. (From the end of an epoch, Lightning starts loaders anew.)"""
    fit_loop, loader = checkpoint.get("loops", {}).get("fit_loop", {}), trainer.train_dataloader
    states = fit_loop.get("state_dict", {}).get("combined_loader", [])
    if isinstance(loader, TensorLoader) and len(states) == 1:
        loader.load_state_dict(states[0])
        if fit_loop.get("epoch_loop.batch_progress", {}).get("is_last_batch"):
            loader.position = len(
                loader
            )  # an epoch that `limit_train_batches` cut short is over, too


def before_validation(trainer: Trainer) -> bool:
    """Whether a validation follows the latest batch."""
    epochs, batches = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if (
        trainer.state.fn != "fit"
        or not trainer.enable_validation
        or not batches
        or batches == float("inf")
    ):
        return False
    if epochs is None:
        return (trainer.fit_loop.total_batch_idx + 1) % batches == 0
    return (trainer.current_epoch + 1) % epochs == 0 and (
        trainer.fit_loop.batch_idx + 1
    ) % batches == 0


# -- noise: Lightning saves the state of no generator ---------------------------------------------------------


def noise_of_all_ranks(rule: Any) -> Tensor:  # noqa: ANN401
    """The states of the processes' generators: (bytes,), or (processes, bytes) of several."""
    state = rule.generator.get_state()
    if rule.trainer.world_size == 1:
        return state
    return rule.all_gather(state.to(rule.device)).cpu()


def continue_noise(generator: Generator, states: Tensor | None, rank: int) -> None:
    """Let a process go on with its own noise; one that the earlier training did not have keeps its seed's."""
    states = None if states is None else states.reshape(-1, states.shape[-1])
    if states is None or rank >= len(states):
        return
    if states.shape[-1] != generator.get_state().numel():
        rank_zero_warn(
            "the training was begun on another kind of device, whose noise cannot go on here: it starts anew"
        )
        return
    generator.set_state(
        states[rank].cpu().clone()
    )  # set_state reads a view from the start of its storage, and crashes
