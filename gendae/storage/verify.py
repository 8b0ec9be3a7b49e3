"""Whether a checkpoint belongs to a model: the whole file is checked before anything is loaded.

Lightning loads tensor by tensor, and cuts the longer of two lists of optimizers. A checkpoint of
another model would be noticed late, or not at all.
"""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gendae.registry import Plain, describe, upgraded
from gendae.storage.archive import CheckpointError

#: What a .ckpt needs to be a model of gendae, and further to be trained on.
MODEL_KEYS = ("gendae", "hyper_parameters", "state_dict")
TRAINING_KEYS = ("optimizer_states", "lr_schedulers", "loops", "epoch", "global_step")
#: Settings of parameter groups that only some optimizers have: they tell optimizers apart.
OPTIMIZER_MARKS = {"betas", "momentum", "alpha", "rho", "lr_decay"}
#: Parts of a stack's description that may differ: its initial weights, and its prior, which is
#: fitted anew.
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
    _check_architecture(path, checkpoint["hyper_parameters"].get("stack"), rule)

    weights = checkpoint["state_dict"]
    check_weights(path, rule, weights)

    priors = {
        "stack.prior.": rule.stack.prior,
        "training_prior.": getattr(rule, "training_prior", None),
    }
    for name, prior in priors.items():
        if prior is not None:
            check_prior(path, prior, weights, name, rule.stack.sizes[-1])

    if training:
        optimizers = optimizers_of(rule.configure_optimizers())
        check_optimizers(path, optimizers, checkpoint["optimizer_states"])


def _check_architecture(path: str | Path, theirs: Plain, rule: Any) -> None:  # noqa: ANN401
    """Raise a CheckpointError unless a described stack is built like that of the rule."""
    ours = describe(rule.stack)
    try:
        theirs = upgraded(theirs)
    except ValueError as error:
        raise CheckpointError(path, f"holds another architecture: {error}") from None

    if getattr(rule, "tie_noise", False):
        theirs = untied(theirs)
        ours = untied(ours)

    words = difference(theirs, ours)
    if words is not None:
        raise CheckpointError(path, f"holds another architecture: {words}")


def difference(theirs: Plain, ours: Plain, where: str = "stack") -> str | None:
    """The first difference of two descriptions, in words.

    Arguments that only one of them has do not count.

    Example:
        >>> tanh = {"type": "Affine", "activation": "tanh"}
        >>> difference(tanh, {"type": "Affine", "activation": "relu", "init": "uniform"})
        "stack.activation is 'tanh', the model's is 'relu'"
    """
    if isinstance(theirs, dict) and isinstance(ours, dict):
        shared = [key for key in theirs if key in ours and key not in BEGINNING]
        return _first_difference(theirs, ours, shared, where)

    if isinstance(theirs, list) and isinstance(ours, list):
        if len(theirs) != len(ours):
            return f"{where} has {len(theirs)} entries, the model's has {len(ours)}"
        return _first_difference(theirs, ours, range(len(ours)), where)

    if theirs == ours:
        return None
    return f"{where} is {_short(theirs)}, the model's is {_short(ours)}"


def _first_difference(
    theirs: Plain, ours: Plain, keys: Iterable[str] | Iterable[int], where: str
) -> str | None:
    """The first difference among the entries of two dictionaries, or of two lists."""
    for key in keys:
        words = difference(theirs[key], ours[key], f"{where}.{key}")
        if words is not None:
            return words
    return None


def _short(value: Plain) -> str:
    if isinstance(value, dict) and "type" in value:
        return value["type"]
    return repr(value)[:60]


def untied(stack: Plain) -> Plain:
    """A described stack without the noise law of its top encoder.

    With `tie_noise`, that law is set anew whenever the prior is fitted.
    """
    try:
        *below, top = stack["pairs"]
        lawless = {key: value for key, value in top.items() if key != "recognition"}
        return {**stack, "pairs": [*below, lawless]}
    except (TypeError, KeyError, ValueError, AttributeError):
        return stack


def some(names: Sequence[str]) -> str:
    """The first few of many names."""
    first = ", ".join(list(names)[:3])
    if len(names) > 3:
        return f"{first} and {len(names) - 3} more"
    return first


def check_content(
    path: str | Path,
    content: Any,  # noqa: ANN401
    rule: str | None = None,
    training: bool = False,
) -> None:
    """Raise a CheckpointError unless a file holds a whole model that this rule wrote.

    With `training`, it must hold a whole training too.
    """
    if not isinstance(content, dict) or not isinstance(content.get("gendae"), dict):
        raise CheckpointError(path, "a checkpoint, but not one that gendae wrote")

    lacking = _lacking_parts(content)
    if lacking:
        raise CheckpointError(path, f"damaged: it lacks {some(lacking)}")

    weights = content["state_dict"]
    strangers = [name for name, value in weights.items() if not isinstance(value, Tensor)]
    if strangers:
        raise CheckpointError(path, f"damaged: {some(strangers)} are no tensors")

    author = content["gendae"]["rule"]
    if rule is not None and author != rule:
        raise CheckpointError(path, f"holds a model that {author} trained, not {rule}")

    lacking = [key for key in TRAINING_KEYS if key not in content]
    if training and lacking:
        raise CheckpointError(
            path, f"holds weights, but no training that could go on: it lacks {some(lacking)}"
        )


def _lacking_parts(content: dict[str, Any]) -> list[str]:
    """Names of the parts of a model that are missing, or of another type."""
    lacking = [key for key in MODEL_KEYS if not isinstance(content.get(key), dict)]
    for key, kind in (("rule", str), ("facts", dict)):
        if not isinstance(content["gendae"].get(key), kind):
            lacking.append(f"gendae.{key}")
    return lacking


def check_finite(path: str | Path, tensors: dict[str, Tensor], what: str = "weights") -> None:
    """Raise a CheckpointError for NaN and infinite values."""
    bad = non_finite(tensors)
    if bad:
        raise CheckpointError(path, f"holds NaN or infinite {what} in {some(bad)}")


def non_finite(tensors: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinite values."""
    return [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]


def non_finite_parts(checkpoint: dict[str, Any]) -> str:
    """Names of weights and optimizer states with NaN or infinite values; empty if none has."""
    bad = non_finite(checkpoint["state_dict"])
    for optimizer in checkpoint.get("optimizer_states", ()):
        for index, values in optimizer["state"].items():
            bad += non_finite(_tensors_of_parameter(index, values))

    return some(bad)


def check_weights(
    path: str | Path, module: nn.Module, tensors: dict[str, Tensor], exact: bool = True
) -> None:
    """Raise a CheckpointError unless the tensors are finite and exactly those the module needs.

    Args:
        path: the file that the tensors are from.
        module: what they are for. Shapes are free in modules that fit themselves to what they
            load (priors).
        tensors: what the file holds.
        exact: the precision must be the module's own.
    """
    own = module.state_dict()
    _check_names(path, own, tensors)

    free = _free_shapes(module)
    for name, value in tensors.items():
        expected = own[name]
        if value.shape != expected.shape and name not in free:
            raise CheckpointError(
                path,
                f"holds another architecture: {name} has shape {tuple(value.shape)}, "
                f"the model's has {tuple(expected.shape)}",
            )
        if not same_kind(value, expected, exact):
            raise CheckpointError(
                path,
                f"holds another architecture: {name} is of type {value.dtype}, "
                f"the model's of {expected.dtype}",
            )

    check_finite(path, tensors)


def _check_names(path: str | Path, own: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Raise a CheckpointError unless a module and a file name the same tensors."""
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]

    faults = []
    if missing:
        faults.append(f"{some(missing)} missing")
    if unexpected:
        faults.append(f"{some(unexpected)} unexpected")

    if faults:
        raise CheckpointError(path, f"holds another architecture: {'; '.join(faults)}")


def same_kind(value: Tensor, own: Tensor, exact: bool) -> bool:
    """Whether both are of one type; unless exact, of any precision."""
    if value.dtype == own.dtype:
        return True
    return not exact and value.is_floating_point() and own.is_floating_point()


def _free_shapes(module: nn.Module) -> set[str]:
    """Names of the buffers that take the shape of what they load."""
    names: set[str] = set()
    for prefix, part in module.named_modules():
        if _loads_its_own_way(part):
            names.update(name for name, _ in part.named_buffers(prefix, recurse=False))
    return names


def _loads_its_own_way(module: nn.Module) -> bool:
    """Whether a class overrides how a module loads its tensors, as priors do."""
    return type(module)._load_from_state_dict is not nn.Module._load_from_state_dict


def check_prior(
    path: str | Path, prior: nn.Module, tensors: dict[str, Tensor], name: str, width: int
) -> None:
    """Raise a CheckpointError unless a copy of a prior works with the tensors it loads.

    The shapes of a prior are free, so that only a trial can tell.

    Args:
        path: the file that the tensors are from.
        prior: what they are for; it stays as it is.
        tensors: what the file holds.
        name: how the names of the prior's tensors begin.
        width: width of the codes.
    """
    trial = copy.deepcopy(prior)
    own = {key[len(name) :]: value for key, value in tensors.items() if key.startswith(name)}
    try:
        trial.load_state_dict(own)
        if trial.fitted:
            floating = (buffer for buffer in trial.buffers() if buffer.is_floating_point())
            example = next(floating, torch.empty(0))
            trial.reconstruct(example.new_zeros(2, width))
    except (RuntimeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            path, f"holds another architecture: its prior does not work: {reason}"
        ) from None


# -- optimizers -----------------------------------------------------------------------------------


def check_optimizers(
    path: str | Path, optimizers: Sequence[Optimizer], states: Sequence[dict[str, Any]]
) -> None:
    """Raise a CheckpointError unless each optimizer can go on from its state.

    (Lightning cuts the longer list.)
    """
    if len(states) != len(optimizers):
        raise CheckpointError(
            path, f"holds the state of {len(states)} optimizers; the model has {len(optimizers)}"
        )

    for optimizer, state in zip(optimizers, states, strict=True):
        _check_optimizer(path, optimizer, state)


def _check_optimizer(path: str | Path, optimizer: Optimizer, state: dict[str, Any]) -> None:
    groups = optimizer.param_groups
    saved = state["param_groups"]
    if [_group(g) for g in groups] != [_group(g) for g in saved]:
        raise CheckpointError(
            path,
            "holds the state of another optimizer, or of one over other layers: "
            f"{_groups(saved)}; the model's is {_groups(groups)}",
        )

    parameters: list[Tensor] = []
    for group in groups:
        parameters += group["params"]
    for index, values in state["state"].items():
        _check_parameter_state(path, int(index), parameters, values)

    check_finite(path, _rates(saved), "rates")


def _check_parameter_state(
    path: str | Path, index: int, parameters: list[Tensor], values: dict[str, Any]
) -> None:
    tensors = _tensors_of_parameter(index, values)
    shapes = {tuple(value.shape) for value in tensors.values() if value.ndim}
    if index >= len(parameters) or shapes - {tuple(parameters[index].shape)}:
        raise CheckpointError(
            path,
            f"its optimizer's state of parameter {index} does not fit: "
            f"shape {some(sorted(map(str, shapes)))}",
        )

    check_finite(path, tensors, "optimizer states")


def _tensors_of_parameter(index: int, values: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors that an optimizer keeps for a parameter, by a name for messages."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    return {f"{name} of parameter {index}": value for name, value in tensors.items()}


def _rates(groups: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Learning rates and weight decays of parameter groups, by a name for messages."""
    rates = {}
    for group in groups:
        name = group.get("name", "group")
        for key in ("lr", "weight_decay"):
            rates[f"{name}.{key}"] = torch.tensor(float(group[key]))
    return rates


def _group(group: dict[str, Any]) -> tuple[str | None, int, frozenset[str]]:
    """What must be equal in two parameter groups."""
    return group.get("name"), len(group["params"]), frozenset(OPTIMIZER_MARKS & set(group))


def _groups(groups: Sequence[dict[str, Any]]) -> str:
    """Parameter groups in words."""
    sizes = ", ".join(str(len(group["params"])) for group in groups)
    marks: set[str] = set()
    if groups:
        marks = OPTIMIZER_MARKS & set(groups[0])

    return f"{len(groups)} groups of {sizes} tensors with {', '.join(sorted(marks))}"


def optimizers_of(configured: Any) -> list[Optimizer]:  # noqa: ANN401 - all that Lightning takes
    """The optimizers in the value that a module's `configure_optimizers` returns."""
    if isinstance(configured, Optimizer):
        return [configured]
    if isinstance(configured, dict):
        return [configured["optimizer"]]
    if isinstance(configured, tuple) and configured and isinstance(configured[0], list | tuple):
        return list(configured[0])

    optimizers = []
    for part in configured or ():
        optimizers += optimizers_of(part)
    return optimizers


# -- facts about the data -------------------------------------------------------------------------


# -- what Lightning does not restore --------------------------------------------------------------


# -- noise: Lightning saves the state of no generator ---------------------------------------------
