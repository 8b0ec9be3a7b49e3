"""How far a training had come, as a checkpoint says it: checked before Lightning takes it over.

Lightning hands each part of a checkpoint to the loop or callback that it belongs to, which
believes what it gets: a missing key ends in a traceback, a path in a removed file.
"""

import copy
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gendae.errors import reason
from gendae.storage.sealed import CheckpointError

if TYPE_CHECKING:  # who reads a model without training it need not wait for Lightning
    from pytorch_lightning import Callback, Trainer

#: Parts that only a training needs, and their types.
TRAINING: dict[str, type] = {
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "epoch": int,
    "global_step": int,
}
#: Parts that some trainings have.
OPTIONAL: dict[str, type] = {
    "generator": Tensor,
    "recent_codes": Tensor,
    "prior_fitted_at": int,
    "prior_due": bool,
}
#: What a `ModelCheckpoint` keeps: paths, one of which it removes for a better one, and scores.
PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
SCORES = ("best_model_score", "current_score", "kth_value")


def check_progress(path: str | Path, content: dict[str, Any]) -> None:
    """Raise a CheckpointError unless the parts of a training are there, each of its own type."""
    lacking = [name for name in TRAINING if name not in content]
    if lacking:
        raise CheckpointError(
            path,
            f"holds weights, but no training that could go on: it lacks {', '.join(lacking[:3])}",
        )

    for name, kind in {**TRAINING, **OPTIONAL}.items():
        value = content.get(name)
        if (value is not None or name in TRAINING) and not is_a(value, kind):
            raise CheckpointError(
                path, f"damaged: {name} is a {type(value).__name__}, no {kind.__name__}"
            )

    codes = content.get("recent_codes")
    if codes is not None and (codes.ndim != 2 or not codes.is_floating_point()):
        raise CheckpointError(path, f"damaged: recent_codes have shape {tuple(codes.shape)}")
    _check_generator(path, content.get("generator"))
    check_callbacks(path, content)


def check_callbacks(path: str | Path, content: dict[str, Any]) -> None:
    """Raise a CheckpointError unless each callback has a state, and files in it stay in place."""
    states = content.get("callbacks") or {}
    if not isinstance(states, dict):
        raise CheckpointError(path, "damaged: callbacks are no dict")

    for name, state in states.items():
        if not isinstance(state, dict):
            raise CheckpointError(path, f"damaged: the state of {name} is none")
        if "best_model_path" in state:
            _check_files(path, name, state)


def is_a(value: object, kind: type) -> bool:
    """Whether a value is of a type; True and False are no numbers."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _check_generator(path: str | Path, states: Tensor | None) -> None:
    """Raise a CheckpointError unless each state of a generator can be set, if it is the CPU's."""
    if states is None:
        return

    usual = torch.Generator().get_state()
    if states.dtype != usual.dtype or states.ndim not in (1, 2) or states.numel() == 0:
        raise CheckpointError(path, "damaged: its generator has no state")
    if states.shape[-1] != usual.numel():  # of another kind of device
        return

    for state in states.reshape(-1, len(usual)):
        try:
            torch.Generator().set_state(state.clone())
        except RuntimeError as error:
            raise CheckpointError(path, f"damaged: its generator: {error}") from None


def _check_files(path: str | Path, name: str, state: dict[str, Any]) -> None:
    """Raise a CheckpointError unless a `ModelCheckpoint` names files and scores of its folder."""
    best = state.get("best_k_models", {})
    files = [state.get(key, "") for key in PATHS]
    scores = [state.get(key) for key in SCORES]
    if isinstance(best, dict):
        files += best
        scores += best.values()

    is_file = all(isinstance(file, str) and _stays(file) for file in files)
    is_score = all(score is None or _one_number(score) for score in scores)
    if not (isinstance(best, dict) and is_file and is_score):
        raise CheckpointError(path, f"damaged: the state of {name} names no files and scores")


def _stays(file: str) -> bool:
    """Whether a path leads nowhere but downwards on this machine."""
    return "://" not in file and "\0" not in file and ".." not in PurePath(file).parts


def _one_number(score: object) -> bool:
    return isinstance(score, Tensor) and score.numel() == 1 and score.dtype.is_floating_point


# -- within a Trainer -----------------------------------------------------------------------------


def check_taken_up(path: str | Path, content: dict[str, Any], trainer: "Trainer") -> None:
    """Raise a CheckpointError unless a Trainer's loop and callbacks can take it up."""
    fn = trainer.state.fn.value
    loops = content.get("loops")
    loop = getattr(trainer, f"{fn}_loop", None)
    if loops is not None and loop is not None:
        fault = _unlike(f"loops.{fn}_loop", _entry(loops, f"{fn}_loop"), loop.state_dict())
        if fault is not None:
            raise CheckpointError(path, f"damaged: {fault}")

    if fn != "fit":
        return

    _check_positions(path, loops["fit_loop"]["state_dict"].get("combined_loader", []))
    states = content.get("callbacks") or {}
    for callback in trainer.callbacks:
        if states.get(callback.state_key):
            _try_on(path, callback, states[callback.state_key])


def _check_positions(path: str | Path, states: object) -> None:
    """Raise a CheckpointError unless these are positions in data, one for each loader."""
    known = isinstance(states, list) and all(isinstance(state, dict) for state in states)
    if not known:
        raise CheckpointError(path, "damaged: its loaders have no states")

    for state in states:
        counts = [state.get(name) for name in ("epoch", "position")]
        if counts != [None, None] and not all(is_a(n, int) and n >= 0 for n in counts):
            raise CheckpointError(path, f"damaged: the position in the data is {state!r:.60}")


def _entry(parts: object, name: str) -> object:
    return parts.get(name) if isinstance(parts, dict) else None


def _unlike(name: str, theirs: object, ours: object) -> str | None:
    """In words, where a loop's state is not built like that of a new one; None if it is."""
    if isinstance(ours, dict):
        if not isinstance(theirs, dict):
            return f"{name} is missing"

        faults = (_unlike(f"{name}.{key}", theirs.get(key), value) for key, value in ours.items())
        return next((fault for fault in faults if fault is not None), None)

    if isinstance(ours, bool | int) and (not is_a(theirs, type(ours)) or theirs < 0):
        return f"{name} is {theirs!r:.60}"
    return None


def _try_on(path: str | Path, callback: "Callback", state: dict[str, Any]) -> None:
    """Raise a CheckpointError unless a copy of a callback takes this state."""
    if hasattr(callback, "best_model_path") and "best_model_path" not in state:
        raise CheckpointError(path, f"damaged: the state of {callback.state_key} names no files")

    try:
        copy.copy(callback).load_state_dict(copy.deepcopy(state))
    except Exception as error:  # noqa: BLE001 - a callback may raise anything
        raise CheckpointError(
            path, f"damaged: the state of {callback.state_key}: {reason(error)}"
        ) from None
