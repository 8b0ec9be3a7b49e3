"""The LightningModule around a rule's losses: one training loop, and Lightning's hooks.

What a training needs besides losses is owned by small objects: `Noise`, `PriorFit`, `LossLedger`,
`Resume` and `Record`. Lightning's `global_step` counts the steps of the one optimizer.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning_fabric.utilities.data import sized_len
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from gendae import checks
from gendae.data import identity
from gendae.data.base import Data, facts_of
from gendae.models.joint import check_modalities
from gendae.models.stack import Stack
from gendae.priors.base import Prior
from gendae.registry import Plain, arguments, describe
from gendae.rules import averaging, batches, monitors, options, updates
from gendae.rules.ledger import LossLedger
from gendae.rules.moment import Moment
from gendae.rules.noise import Noise
from gendae.rules.prior_fit import PriorFit
from gendae.rules.processes import like_parameters, log_means, of_all_ranks
from gendae.rules.rates import Rates
from gendae.rules.record import Record
from gendae.rules.resume import Resume, before_validation, run_of
from gendae.storage import archive, model_file, verify
from gendae.storage.sealed import CheckpointError

if TYPE_CHECKING:
    from typing_extensions import Self

Gradients = Callable[[Sequence[Tensor], Moment], dict[str, Tensor]]


class Shell(LightningModule):
    """What every rule does under a Trainer; works on `self.stack` and `self.losses`.

    Args:
        log_every: updates between two readings of the losses.
        prior_every: updates between two fits of a prior that the losses use.
    """

    #: What a `Rule` has.
    stack: Stack
    rates: Rates
    generative: ClassVar[bool]
    handles_missing: ClassVar[bool]

    if TYPE_CHECKING:

        @property
        def has_phases(self) -> bool: ...

        @property
        def prior_in_losses(self) -> Prior | None: ...

        def losses(
            self, batch: Sequence[Tensor], moment: Moment = Moment()
        ) -> dict[str, Tensor]: ...

        def codes(self, x: Tensor) -> Tensor: ...

        def fit_residuals(self, x: Tensor) -> None: ...

        def examples(self, batch: Sequence[Tensor]) -> Tensor: ...

        def learning(self, update: int, batch_idx: int) -> tuple[str, ...]: ...

    def __init__(self, log_every: int, prior_every: int) -> None:
        super().__init__()
        options.check_hooks(type(self), Shell)

        self.source_of_noise = Noise()
        self.prior_fit = PriorFit(prior_every)
        self.ledger = LossLedger(log_every)
        self.resume = Resume()
        self.record = Record()

        #: Computes losses and gradients in the place of `gradients`: `gendae.Graphs` sets it.
        self.recorded: Gradients | None = None
        #: Makes the update of a batch to which nobody listens; None in any other.
        self.quiet: updates.QuietBatches | None = None
        self._looked_at_data = False
        self._looked_at_validation = False

    # -- the loop ------------------------------------------------------------------------------

    def moment(self, batch_idx: int) -> Moment:
        """The moment of the update that a Trainer is at."""
        update = self.global_step
        done = update + self.resume.offset
        progress = min(1.0, done / self.trainer.estimated_stepping_batches)

        generator = self.source_of_noise.generator
        return Moment(progress, generator, update, self.learning(update, batch_idx))

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        moment = self.moment(batch_idx)
        if self.prior_in_losses is not None and self.begins_update(batch_idx):
            self.prior_fit.follow(self, batch, self.prior_in_losses, moment)

        if self.begins_update(batch_idx):
            optimizer = self.optimizers(use_pl_optimizer=False)
            self.begin_update(optimizer, moment)
            if self.quiet is None:
                self._tell_before_zero_grad(optimizer)

        if self.recorded is not None:
            losses = self.recorded(batch, moment)
        else:
            losses = self.gradients(batch, moment, first=self.begins_update(batch_idx))

        if self.ends_update(batch_idx):
            self.take_step(self.optimizers(use_pl_optimizer=False))

        self.ledger.note(self, moment.update, losses)

    def _tell_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Call the hooks that Lightning calls only where it clears the gradients itself."""
        for callback in self.trainer.callbacks:
            callback.on_before_zero_grad(self.trainer, self, optimizer)

        self.on_before_zero_grad(optimizer)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradients here: callbacks, which come first, see them as they are."""
        self.rates.clip_gradients(optimizer)

    def begin_update(self, optimizer: torch.optim.Optimizer, moment: Moment) -> None:
        """What the optimizer is told before an update, by a Trainer or by a loop of one's own.

        Each layer has its rate at this progress. A rule whose losses change their scale in
        training also lets the optimizer forget what it knows of the earlier ones.

        Args:
            optimizer: that of `configure_optimizers`.
            moment: of the update.
        """
        self.rates.set(optimizer, moment.progress)

    def gradients(
        self, batch: Sequence[Tensor], moment: Moment, first: bool = True
    ) -> dict[str, Tensor]:
        """The losses of a batch; their gradients are left in the parameters.

        Args:
            batch: x, and what else the rule takes.
            moment: of the update.
            first: whether these are the first gradients of the update; others are added to them.
        """
        if first:
            # before the losses, which find room in the memory that this frees
            for parameter in self.parameters():
                parameter.grad = None

        losses = self.losses(batch, moment)
        total = self.sum_of(losses)
        if self.batches_of_update > 1:
            total = total / self.batches_of_update

        if self.quiet is None:
            self.manual_backward(total)
        else:
            total.backward()

        return losses

    def take_step(self, optimizer: torch.optim.Optimizer) -> None:
        """A step of the optimizer, by which `global_step` grows."""
        if self.quiet is None:
            self.optimizers().step()
        else:
            self.quiet.take_step(optimizer)

    def sum_of(self, losses: dict[str, Tensor]) -> Tensor:
        """What an update follows; a ValueError where a rule gives no losses at all."""
        if not losses:
            raise ValueError(
                f"{type(self).__name__} gives no losses, from which nothing learns; needed: at "
                "least one at every update"
            )

        return reduce(torch.add, losses.values())

    # -- accumulate_grad_batches ---------------------------------------------------------------

    @property
    def batches_of_update(self) -> int:
        """How many batches' gradients make an update; 1 without a Trainer."""
        return 1 if self._trainer is None else self.trainer.accumulate_grad_batches

    def begins_update(self, batch_idx: int) -> bool:
        """Whether a batch is the first of an update."""
        return batch_idx % self.batches_of_update == 0

    def ends_update(self, batch_idx: int) -> bool:
        """Whether a batch is the last of an update."""
        return (batch_idx + 1) % self.batches_of_update == 0 or self.trainer.is_last_batch

    def configure_callbacks(self) -> list[Callback]:
        """Called before Lightning checks the Trainer: it lets no manual rule accumulate."""
        options.check(self)
        self.automatic_optimization = True

        return averaging.with_fitted_priors(self.trainer.callbacks)

    def setup(self, stage: str) -> None:
        """From here on the rule itself makes the steps."""
        self.automatic_optimization = False
        self.stack = checks.plain(self.stack)
        checks.untied("stack", self.stack)

        if self.has_phases and isinstance(self.trainer.strategy, DDPStrategy):
            # several processes would wait for the gradient of every map
            self.trainer.strategy._ddp_kwargs["find_unused_parameters"] = True

    def on_after_batch_transfer(
        self, batch: Sequence[Tensor], dataloader_idx: int
    ) -> Sequence[Tensor]:
        """Batches of a user's own loader as the stack takes them; images become rows."""
        if not self._looked_at_data:
            batches.check_images(self.stack, batch)

        return like_parameters(self.stack, batch)

    def on_validation_batch_start(
        self, batch: Sequence[Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.trainer.state.fn != "fit" or self._looked_at_validation:
            return

        if batch_idx == 0 or self.trainer.world_size == 1:  # others may have fewer batches
            batches.check(self, batch, f"batch {batch_idx} of the validation data")

    # -- validation and the prior --------------------------------------------------------------

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._log_reconstruction("val", batch[0])

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._log_reconstruction("test", batch[0])

    def _log_reconstruction(self, split: str, x: Tensor) -> None:
        """Squared error of x up to each level and back, summed over pixels, mean over images."""
        errors = {}
        for level in range(1, self.stack.depth + 1):
            difference = self.stack.reconstruct(x, level) - x
            errors[f"{split}/reconstruction_{level}"] = difference.square().sum(-1).mean()

        log_means(self, errors, len(x))

    def fit_prior(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """Fit P(h_L) on the codes of all batches; see `PriorFit.fit`."""
        self.prior_fit.fit(self, batches)

    def training_batches(self) -> Iterable[Sequence[Tensor]]:
        """The training data in order, for the prior; with `overfit_batches`, these only.

        A stream, which may have no end, gives as many batches as the training has taken.
        """
        loader = self.trainer.train_dataloader
        if self.trainer.overfit_batches > 0:
            number = int(self.trainer.num_training_batches)
            return loader.first(number) if hasattr(loader, "first") else islice(loader, number)

        if hasattr(loader, "sequential"):
            return loader.sequential()
        if sized_len(loader) is None:
            return islice(loader, max(1, self.trainer.fit_loop.total_batch_idx + 1))

        return loader

    def of_all_ranks(self, rows: Tensor) -> Tensor:
        """The rows of all processes, so that each fits the same prior."""
        if self._trainer is None:
            return rows

        return of_all_ranks(self.trainer, rows)

    def _fit_prior_now(self) -> None:
        self.fit_prior(self.training_batches())
        self.prior_fit.step = self.global_step

    def on_validation_start(self) -> None:
        if self.generative and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._fit_prior_now()

    def on_validation_end(self) -> None:
        self._looked_at_validation = not self.trainer.sanity_checking

    def on_train_end(self) -> None:
        # there may have been no validation after the last update
        if self.generative and self.prior_fit.step != self.global_step:
            self.fit_prior(self.training_batches())

    def cpu(self) -> "Shell":
        """Move to the CPU, as Lightning does at the end, also where a meta device was refused."""
        return self if self.stack.device.type == "meta" else super().cpu()

    # -- the run -------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Make any Trainer write whole files, and load them in the precision of their writing."""
        if self._trainer is None:
            return

        archive.install(self.trainer.strategy)
        if self.trainer.precision == "64-true":
            self.trainer.precision_plugin.convert_module(self)

    def on_fit_start(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        check_modalities(self.stack, data, self.handles_missing)
        batches.check_shapes(self.stack, data)
        options.check_optimizers(self.trainer)

        self.resume.begin(self)
        earlier = self.resume.content
        self._looked_at_data = False
        self._looked_at_validation = False
        self.source_of_noise.begin(self, earlier.get("generator"))
        self.prior_fit.begin(earlier.get("recent_codes"), earlier.get("prior_fitted_at", -1))
        self.ledger.clear()
        self.record.begin(self, data, self.resume.facts)

    def on_train_start(self) -> None:
        self.resume.compare(self)
        monitors.check(self)
        updates.install(self, Shell)

    def on_fit_end(self) -> None:
        self.resume.end(self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        verify.require_readable(checkpoint.get("callbacks", {}))
        if self.trainer.state.fn == "fit":
            self.ledger.refuse_diverged(self, checkpoint)
            checkpoint["run"] = run_of(self.trainer, self.resume.offset)

        self.record.update(self)
        checkpoint["hyper_parameters"] = arguments(self, foreign=True)
        checkpoint["gendae"] = {
            "rule": type(self).__name__,
            "facts": self.stack.facts,
            "settings": describe(self.stack.settings.chosen()),
        }

        if self.source_of_noise.generator is not None:
            checkpoint["generator"] = self.source_of_noise.states(self)

        due = self.generative and self.prior_fit.step != self.global_step
        checkpoint["prior_fitted_at"] = self.prior_fit.step
        checkpoint["prior_due"] = due and before_validation(self.trainer)
        if self.prior_fit.recent is not None:
            checkpoint["recent_codes"] = self.prior_fit.recent.clone()

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,  # noqa: ANN401 - all that Lightning takes
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **arguments: Any,  # noqa: ANN401 - those of the rule's constructor
    ) -> "Self":
        """A rule from a .ckpt, checked as `gendae.load` checks it before anything is built.

        Args:
            checkpoint_path: a file of this machine.
            map_location, hparams_file, strict, arguments: see Lightning's method; objects of
                registered classes are accepted.
            weights_only: always True, whatever is given: no code of a file runs.

        Raises:
            FileNotFoundError: if there is no such file.
            CheckpointError: if it is damaged or foreign, of another rule, or hostile.
            ValueError: for a URL or an open file, whose seal is not compared, and for objects of
                other classes.
        """
        if not isinstance(checkpoint_path, str | PathLike) or not archive.is_local(
            checkpoint_path
        ):
            raise ValueError(
                f"checkpoint_path={checkpoint_path!r}: a file of this machine is needed, whose "
                "checksum can be compared"
            )

        path = checks.path("checkpoint_path", checkpoint_path)
        content = archive.WholeFileIO().load_checkpoint(path)
        verify.check_content(path, content)
        model_file.load_ckpt(path, content)

        plain = {name: describe(value) for name, value in arguments.items()}
        owned = io.BytesIO()
        torch.save(content, owned)
        owned.seek(0)
        try:
            return super().load_from_checkpoint(
                owned, map_location, hparams_file, strict, weights_only=True, **plain
            )
        except CheckpointError as error:  # it names no file
            raise CheckpointError(path, error.reason) from None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        path = "the checkpoint"
        fitting = False
        if self._trainer is not None:
            path = self.trainer.ckpt_path
            fitting = self.trainer.state.fn == "fit"

        verify.check(path, checkpoint, self, fitting)
        self._check_data(path, checkpoint["gendae"]["facts"], fitting)
        self.take(checkpoint)
        if fitting:
            self.resume.take(checkpoint)
            averaging.tell_of_end(self.trainer, checkpoint)

    def _check_data(self, path: str, facts: dict[str, Any], fitting: bool) -> None:
        """Refuse a checkpoint of other data than those that are open.

        A trained model may be tested on others, if they do not say that they are its own.
        """
        data = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
        if not isinstance(data, Data):
            return

        other = identity.difference(data.identity, facts)
        described = facts_of(data).get("dataset")
        same = identity.origin(described) == identity.origin(facts.get("dataset"))
        if other is not None and (fitting or same):
            raise CheckpointError(path, f"{other}; put them back, or train a new model")

        made = identity.otherwise(described, facts.get("dataset")) if fitting else None
        if made is not None:
            raise CheckpointError(
                path,
                f"the data are not made as in its training: {made}; put them back, or train a new "
                "model",
            )

    def priors(self) -> dict[str, Prior]:
        """Priors that a checkpoint holds, by the beginning of their names there."""
        return {"stack.prior.": self.stack.prior}

    def described(self, stack: Plain) -> Plain:
        """A described stack without what training changes, so that two of one model are equal."""
        return stack

    def take(self, checkpoint: dict[str, Any]) -> None:
        """Take from a checkpoint what training changes, and is no tensor."""

    def on_train_epoch_start(self) -> None:
        self.resume.begin_epoch(self.trainer)

    def on_train_batch_start(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        if not self._looked_at_data:
            batches.check(self, batch, f"batch {batch_idx} of the training data")
            self._looked_at_data = True

        if self.resume.prior_is_due(self.global_step):
            self._fit_prior_now()
