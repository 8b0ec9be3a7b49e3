"""Going on where a training was interrupted: what Lightning passes over when it resumes."""

from typing import Any

from pytorch_lightning import Trainer

from gendae.data.loader import TensorLoader

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


class Resume:
    """What a checkpoint says of a training that is to go on, until it has been taken up.

    Attributes:
        content: the parts of the checkpoint that the rule needs; empty without one.
    """

    def __init__(self) -> None:
        self.content: dict[str, Any] = {}

    def take(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the start of the fit will ask for."""
        self.content = {key: checkpoint[key] for key in CONTINUED if key in checkpoint}

    @property
    def facts(self) -> dict[str, Any]:
        """Facts of the earlier training."""
        return self.content.get("gendae", {}).get("facts", {})

    def continue_order(self, trainer: Trainer) -> None:
        """Let gendae's loader go on where it was: between epochs Lightning starts it anew."""
        if self.content.get("global_step") != trainer.global_step:
            return

        fit_loop = self.content.get("loops", {}).get("fit_loop", {})
        states = fit_loop.get("state_dict", {}).get("combined_loader", [])
        loader = trainer.train_dataloader
        if not isinstance(loader, TensorLoader) or len(states) != 1:
            return

        loader.load_state_dict(states[0])
        if fit_loop.get("epoch_loop.batch_progress", {}).get("is_last_batch"):
            loader.position = len(loader)  # an epoch that `limit_train_batches` cut is over, too

    def prior_is_due(self, step: int) -> bool:
        """Whether the interrupted training was about to fit its prior; asked once."""
        content = self.content
        self.content = {}
        return bool(content.get("prior_due")) and content["global_step"] == step


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
