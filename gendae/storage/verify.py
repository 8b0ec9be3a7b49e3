"""Whether a checkpoint belongs to a model: the whole file is checked before anything is loaded.

Lightning loads tensor by tensor, and cuts the longer of two lists of optimizers. A checkpoint of
another model would be noticed late, or not at all.
"""

import copy
import inspect
import io
import pickle
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gendae.models.stack import Stack
from gendae.registry import Plain, describe, upgraded
from gendae.storage.description import check_facts
from gendae.storage.owned import check_plain
from gendae.storage.progress import check_progress, check_taken_up, is_a
from gendae.storage.sealed import CheckpointError

#: What a .ckpt needs to be a model of gendae.
MODEL_KEYS = ("gendae", "hyper_parameters", "state_dict")
#: Settings of parameter groups that only some optimizers have: they tell optimizers apart.
OPTIMIZER_MARKS = {"betas", "momentum", "alpha", "rho", "lr_decay"}
#: Settings of parameter groups that say how an update is computed on a device, not what it is.
DEVICE_MARKS = ("foreach", "fused", "capturable", "differentiable")
#: Parts of a stack's description that may differ: its initial weights, and its prior, which is
#: fitted anew.
BEGINNING = ("init", "gain", "prior")


def require_readable(states: Mapping[str, Any]) -> None:
    """Raise a ValueError for the state of a callback with which a checkpoint cannot be read again.

    Args:
        states: of all callbacks, by name.
    """
    for name, state in states.items():
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        try:
            strangers = torch.serialization.get_unsafe_globals_in_checkpoint(buffer)
        except pickle.UnpicklingError:
            strangers = ["numbers without bound"]

        if strangers:
            raise ValueError(
                f"{name}: its state_dict holds {', '.join(sorted(strangers))}, which no "
                "checkpoint could be read with again; plain data and tensors are accepted"
            )


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

    check_measured(path, rule.stack, weights, "stack.")
    for name, prior in rule.priors().items():
        check_prior(path, prior, weights, name, rule.stack.sizes[-1])

    if training:
        optimizers = optimizers_of(rule.configure_optimizers())
        check_optimizers(path, optimizers, checkpoint["optimizer_states"])
    if rule._trainer is not None:
        check_taken_up(path, checkpoint, rule.trainer)


def _check_architecture(path: str | Path, theirs: Plain, rule: Any) -> None:  # noqa: ANN401
    """Raise a CheckpointError unless a described stack is built like that of the rule."""
    ours = describe(rule.stack, foreign=True)
    if not isinstance(theirs, dict) or "type" not in theirs:
        raise CheckpointError(path, "holds another architecture: its stack is no description")

    try:
        theirs = upgraded(theirs)
    except ValueError as error:
        raise CheckpointError(path, f"holds another architecture: {error}") from None

    words = difference(rule.described(theirs), rule.described(ours))
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

    try:
        for part in ("gendae", "hyper_parameters"):
            check_plain(part, content[part])
        check_facts(content["gendae"]["facts"])
    except ValueError as error:
        raise CheckpointError(path, f"damaged: {error}") from None

    if training:
        check_progress(path, content)


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
    _check_names(path, own, tensors, later(module))

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
            raise CheckpointError(path, _of_other_type(name, value, expected))

    check_finite(path, tensors)


def _of_other_type(name: str, value: Tensor, own: Tensor) -> str:
    """What is wrong with a tensor whose type is not the model's own."""
    if same_kind(value, own, exact=False):
        return (
            f"was written in another precision: {name} is {value.dtype}, the model's {own.dtype}; "
            "go on in the precision of its run (trainer.precision)"
        )

    return f"holds another architecture: {name} is {value.dtype}, the model's {own.dtype}"


def _check_names(
    path: str | Path, own: dict[str, Tensor], tensors: dict[str, Tensor], optional: set[str]
) -> None:
    """Raise a CheckpointError unless a module and a file name the same tensors."""
    missing = [name for name in own if name not in tensors and name not in optional]
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


def later(module: nn.Module) -> set[str]:
    """Names of the buffers that files of earlier versions do not have: LATER of a class."""
    names: set[str] = set()
    for prefix, part in module.named_modules():
        names.update(f"{prefix}.{name}".lstrip(".") for name in getattr(part, "LATER", ()))
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
            codes = example.new_zeros(2, width)
            _try_prior(trial, codes)
    except Exception as error:  # noqa: BLE001 - its shapes and numbers may be any
        raise CheckpointError(
            path, f"holds another architecture: its prior does not work: {error}"
        ) from None


def check_measured(
    path: str | Path, stack: Stack, tensors: dict[str, Tensor], name: str = ""
) -> None:
    """Raise a CheckpointError unless a stack's measured widths are those of its units, or none.

    Args:
        path: the file that the tensors are from.
        stack: what they are for.
        tensors: what the file holds.
        name: how the names of the stack's tensors begin.
    """
    units = sum(stack.sizes)
    shapes = {
        "residuals": (stack.depth,),
        "loops": (2, units - stack.sizes[-1]),
        "noises": (units - stack.sizes[0],),
    }

    sizes = {part: tensors.get(name + part, torch.empty(0)).shape for part in shapes}
    bad = [part for part, size in sizes.items() if size.numel() and size != shapes[part]]
    if bool(sizes["loops"].numel()) != bool(sizes["noises"].numel()):
        bad += ["loops", "noises"]
    if bad:
        raise CheckpointError(
            path, f"holds another architecture: {some(bad)} are not of {units} units"
        )


def _try_prior(prior: nn.Module, codes: Tensor) -> None:
    """Raise an error of any kind where a prior does not do what it is asked for, with codes."""
    generator = torch.Generator().manual_seed(0)  # the global random state is left alone
    if prior.analytic:
        drawn = prior.sample(len(codes), generator)
    else:
        drawn = prior.chain(codes, 1, generator)[-1]
    results = [drawn, prior.reconstruct(codes), prior.step(codes, 1.0, generator)]

    shapes = [tuple(result.shape) for result in results]
    if prior.has_density:
        shapes.append((*prior.log_prob(drawn).shape, codes.shape[1]))
    for shape in shapes:
        if shape != codes.shape:
            raise ValueError(f"it gives shape {shape} for codes of {tuple(codes.shape)}")

    repr(prior)


# -- optimizers -----------------------------------------------------------------------------------


def check_optimizers(
    path: str | Path, optimizers: Sequence[Optimizer], states: Sequence[Any]
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


def _check_optimizer(path: str | Path, optimizer: Optimizer, state: Any) -> None:  # noqa: ANN401
    groups = optimizer.param_groups
    saved = _saved_groups(state)
    if saved is None:
        raise CheckpointError(path, "damaged: the state of its optimizer is none")
    if [_group(g) for g in groups] != [_group(g) for g in saved]:
        raise CheckpointError(
            path,
            "holds the state of another optimizer, or of one over other layers: "
            f"{_groups(saved)}; the model's is {_groups(groups)}",
        )

    for own, theirs in zip(groups, saved, strict=True):
        _check_settings(path, optimizer, own, theirs)

    parameters: list[Tensor] = []
    for group in groups:
        parameters += group["params"]
    numbers = [number for group in saved for number in group["params"]]
    if numbers != list(range(len(parameters))):
        raise CheckpointError(path, "damaged: its optimizer's parameters are in another order")

    kept = _kept(optimizer)
    for index, values in state["state"].items():
        _check_parameter_state(path, index, parameters, values, kept)


def _saved_groups(state: Any) -> list[dict[str, Any]] | None:  # noqa: ANN401
    """The parameter groups in the state of an optimizer, if it is one."""
    if not isinstance(state, dict) or not isinstance(state.get("state"), dict):
        return None

    groups = state.get("param_groups")
    if not isinstance(groups, list):
        return None
    if all(isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups):
        return groups
    return None


def _check_settings(
    path: str | Path, optimizer: Optimizer, own: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """Raise a CheckpointError unless the settings of a parameter group could be its own.

    Those of the device are replaced by the optimizer's.
    """
    name = own.get("name", "group")
    rates = {}
    for key in [key for key in own if key not in ("params", "name")]:
        if key in DEVICE_MARKS:
            theirs[key] = own[key]
        elif key in theirs and not _alike(theirs[key], own[key]):
            raise CheckpointError(path, f"damaged: {name}.{key} is {theirs[key]!r:.60}")
        elif isinstance(theirs.get(key), int | float):
            rates[f"{name}.{key}"] = torch.tensor(float(theirs[key]))

    check_finite(path, rates, "rates")
    accepted = inspect.signature(type(optimizer)).parameters
    usual = {key: theirs.get(key, own[key]) for key in own if key in accepted and key != "params"}
    try:
        type(optimizer)([torch.zeros(1, requires_grad=True)], **usual)  # which checks the ranges
    except (TypeError, RuntimeError):  # a class of the user's own may need more
        pass
    except ValueError as error:
        raise CheckpointError(path, f"damaged: {name}: {error}") from None


def _alike(theirs: Any, ours: Any) -> bool:  # noqa: ANN401
    """Whether two settings are of one kind."""
    if isinstance(ours, bool) or ours is None:
        return theirs is None or isinstance(theirs, bool)
    if isinstance(ours, int | float):
        return is_a(theirs, int) or is_a(theirs, float)
    if isinstance(ours, list | tuple):
        return (
            isinstance(theirs, list | tuple)
            and len(theirs) == len(ours)
            and all(map(_alike, theirs, ours))
        )
    return isinstance(theirs, type(ours))


def _kept(optimizer: Optimizer) -> dict[str, Any] | None:
    """What an optimizer keeps for a parameter of shape (2,), by name; None if a trial cannot tell.

    The trial is an update without gradient.
    """
    parameter = torch.zeros(2, requires_grad=True)
    parameter.grad = torch.zeros(2)
    trial = copy.copy(optimizer)
    trial.param_groups = [{**optimizer.param_groups[0], "params": [parameter]}]
    trial.state = defaultdict(dict)

    try:
        trial.step()
    except Exception:  # noqa: BLE001 - of a class of the user's own
        return None
    return dict(trial.state[parameter])


def _check_parameter_state(
    path: str | Path,
    index: Any,  # noqa: ANN401
    parameters: list[Tensor],
    values: Any,  # noqa: ANN401
    kept: dict[str, Any] | None,
) -> None:
    """Raise a CheckpointError unless an optimizer can go on from what it kept for a parameter."""
    where = f"its optimizer's state of parameter {index!r:.60}"
    if not is_a(index, int) or not isinstance(values, dict):
        raise CheckpointError(path, f"damaged: {where} is none")

    tensors = _tensors_of_parameter(index, values)
    shapes = {tuple(value.shape) for value in tensors.values() if value.ndim}
    if not 0 <= index < len(parameters) or shapes - {tuple(parameters[index].shape)}:
        raise CheckpointError(
            path, f"{where} does not fit: shape {some(sorted(map(str, shapes)))}"
        )

    check_finite(path, tensors, "optimizer states")
    if kept is None or not values:
        return

    faults = [name for name in {**kept, **values} if not _same_entry(name, values, kept)]
    if faults:
        raise CheckpointError(path, f"{where} does not fit: {some(faults)}")


def _same_entry(name: str, theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether two optimizers keep the same kind of thing under a name; counts are no debts."""
    if name not in theirs or name not in ours:
        return False

    value = theirs[name]
    own = ours[name]
    if not isinstance(own, Tensor):
        return _alike(value, own)
    if not isinstance(value, Tensor) or (value.ndim > 0) != (own.ndim > 0):
        return False

    usable = value.is_floating_point() == own.is_floating_point() and not value.is_complex()
    return usable and (value.ndim > 0 or float(value) >= 0)


def _tensors_of_parameter(index: int, values: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors that an optimizer keeps for a parameter, by a name for messages."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    return {f"{name} of parameter {index}": value for name, value in tensors.items()}


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
