"""Going on where a training was interrupted: noise, the order of the data, a fit of the prior that is due."""

from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Generator, Tensor

from gendae.data.loader import TensorLoader
from gendae.registry import build

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


def take_tied_noise(rule: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ANN401
    """With `tie_noise`, take the noise law of the top encoder from the checkpoint."""
    if getattr(rule, "tie_noise", False):
        top = checkpoint["hyper_parameters"]["stack"]["pairs"][-1]
        rule.stack.pairs[-1].recognition = build(top["recognition"])


def continue_order(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Let gendae's loader go on where it was.

    (From the end of an epoch, Lightning starts loaders anew.)
    """
    fit_loop = checkpoint.get("loops", {}).get("fit_loop", {})
    states = fit_loop.get("state_dict", {}).get("combined_loader", [])
    loader = trainer.train_dataloader
    if not isinstance(loader, TensorLoader) or len(states) != 1:
        return

    loader.load_state_dict(states[0])
    if fit_loop.get("epoch_loop.batch_progress", {}).get("is_last_batch"):
        # an epoch that `limit_train_batches` cut short is over, too
        loader.position = len(loader)


def before_validation(trainer: Trainer) -> bool:
    """Whether a validation follows the latest batch."""
    epochs = trainer.check_val_every_n_epoch
    batches = trainer.val_check_batch
    validates = trainer.state.fn == "fit" and trainer.enable_validation
    if not validates or not batches or batches == float("inf"):
        return False

    if epochs is None:
        return (trainer.fit_loop.total_batch_idx + 1) % batches == 0

    if (trainer.current_epoch + 1) % epochs != 0:
        return False
    return (trainer.fit_loop.batch_idx + 1) % batches == 0


def noise_of_all_ranks(rule: Any) -> Tensor:  # noqa: ANN401
    """The states of the processes' generators: (bytes,), or (processes, bytes) of several."""
    state = rule.generator.get_state()
    if rule.trainer.world_size == 1:
        return state
    return rule.all_gather(state.to(rule.device)).cpu()


def continue_noise(generator: Generator, states: Tensor | None, rank: int) -> None:
    """Let a process go on with its own noise.

    A process that the earlier training did not have keeps the noise of its seed.
    """
    if states is None:
        return
    states = states.reshape(-1, states.shape[-1])
    if rank >= len(states):
        return

    if states.shape[-1] != generator.get_state().numel():
        rank_zero_warn(
            "the training was begun on another kind of device, whose noise cannot go on here: "
            "it starts anew"
        )
        return

    # a copy: set_state reads a view from the start of its storage, and crashes
    generator.set_state(states[rank].cpu().clone())
