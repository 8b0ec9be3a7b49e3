"""The one training loop: local losses in, one step of every layer out.

A rule fills one hole, `losses(batch)`: a named loss for each layer and direction, whose inputs and targets
are detached, so that one backward pass through their sum gives each layer its own gradient and nothing
crosses from one layer to another. One optimizer with a parameter group per layer and direction holds the
rates (and keeps Lightning's `global_step` equal to the number of updates).
"""

import time
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Generator, Tensor, nn

from gendae import checkpointing, checks, restoring
from gendae.joint import check_modalities
from gendae.layers import Pair
from gendae.priors import Prior
from gendae.rules.ledger import LossLedger, TrainingDiverged
from gendae.rules.processes import like_parameters, log_means, mean_of_ranks, of_all_ranks
from gendae.spec import arguments, build
from gendae.stack import Stack

PerLayer = float | Sequence[float]
MEMORY = 5000  # latest codes on which a prior is fitted in the middle of training
PRIOR_EXAMPLES = (
    200_000  # most examples of each process on whose codes a prior is fitted after an epoch
)
RANK_STRIDE = (
    7919  # a prime: seeds of the ranks' noise must differ, and not meet other small seeds
)


class Rule(LightningModule):
    """Base class of the learning rules over a stack.

    Works without a Trainer: `sum(rule.losses((x,)).values()).backward()` and a step of
    `rule.configure_optimizers()`.

    Args:
        stack: the model to train.
        lr_f, lr_g: learning rates of encoders and decoders; a number, or one for each layer.
        weight_decay_f, weight_decay_g: decoupled weight decay, likewise.
        hold: fraction of training at constant rates, after which they fall linearly to zero.
        log_every: updates between two readings of the losses.
        prior_every: updates between two fits of P(h_L) on the latest top-level codes, for rules that use the
            prior while they train; 0 fits it on all training codes before each validation only.

    Attributes:
        progress: fraction of the training done, in [0, 1].
        updates: number of updates done; None outside a Trainer, where there is no warm-up.

    Raises:
        ValueError: for negative rates or lists of a wrong length.
        TrainingDiverged: during fit, where a loss is NaN or infinite.
    """

    #: Whether the stack is to be sampled from: its prior is then fitted, its samples scored.
    generative = True
    #: Whether examples may lack modalities.
    handles_missing = False
    #: What best.ckpt is chosen by, and whether more ("max") or less ("min") of it is better.
    score = ("val/parzen_ll", "max")

    def __init__(
        self,
        stack: Stack,
        lr_f: PerLayer = 1.2e-4,
        lr_g: PerLayer = 4e-4,
        weight_decay_f: PerLayer = 0.0,
        weight_decay_g: PerLayer = 0.0,
        hold: float = 0.3,
        log_every: int = 50,
        prior_every: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.stack: Stack = build(stack)
        if self.generative and hasattr(self.stack, "output"):
            raise ValueError(
                f"stack={type(self.stack).__name__}: {type(self).__name__} trains generative stacks, and "
                "would leave the output layer as it is; accepted: a Stack"
            )
        self.lr_f, self.lr_g = lr_f, lr_g
        self.weight_decay_f, self.weight_decay_g = weight_decay_f, weight_decay_g
        if not 0.0 <= hold <= 1.0:
            raise ValueError(f"hold={hold} is a fraction of training: between 0 and 1")
        self.hold = hold
        self.log_every = int(checks.at_least("log_every", log_every, 1))
        for direction in "fg":
            for name in (f"lr_{direction}", f"weight_decay_{direction}"):
                checks.per_layer(name, getattr(self, name), len(self.maps(direction)))
        self.progress, self.updates = 0.0, None
        self.generator: Generator | None = None
        self._resumed: dict[str, Any] = {}
        self.prior_every = int(checks.at_least("prior_every", prior_every, 0))
        self._recent: Tensor | None = None
        self._ledger = LossLedger(self.log_every)
        self._prior_fitted_at = -1
        self._started: float | None = None

    # -- what a rule defines -------------------------------------------------------------------------

    def losses(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """Local losses in nats, mean over the batch, named term_l or term_f_l, term_g_l; batch[0] is x."""
        raise NotImplementedError(f"{type(self).__name__} must define losses")

    @staticmethod
    def own_penalty(pair: Pair, level: int) -> dict[str, Tensor]:
        """What an encoder asks of itself, such as the orthogonality of an invertible layer (2014, 6)."""
        penalty = getattr(pair.f, "penalty", None)
        return {} if penalty is None else {f"penalty_f_{level}": penalty()}

    def codes(self, x: Tensor) -> Tensor:
        """Top-level codes on which the prior is fitted; feed-forward ones unless a rule says otherwise."""
        return self.stack.encode(x)[-1]

    def examples(self, batch: Sequence[Tensor]) -> Tensor:
        """x of the examples in a batch on whose codes the prior is fitted."""
        return batch[0]

    # -- the loop ------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with one parameter group per layer and direction."""
        return self.optimizer_of(self._groups())

    def optimizer_of(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer over parameter groups, each with its rate and decay."""
        return torch.optim.AdamW(groups, fused=self.stack.device.type in ("cpu", "cuda"))

    def maps(self, direction: str) -> list[list[object]]:
        """For each layer, its encoder ("f") or decoder ("g") with the law around it."""
        return [
            [pair.f, pair.recognition] if direction == "f" else [pair.g, pair.observation]
            for pair in self.stack.pairs
        ]

    def _groups(self) -> list[dict[str, Any]]:
        groups = []
        for direction in "fg":
            maps = self.maps(direction)
            rates = checks.per_layer("lr", getattr(self, f"lr_{direction}"), len(maps))
            decays = checks.per_layer(
                "weight_decay", getattr(self, f"weight_decay_{direction}"), len(maps)
            )
            for level, parts in enumerate(maps, 1):
                modules = [part for part in parts if isinstance(part, nn.Module)]
                groups.append(
                    {
                        "params": [p for module in modules for p in module.parameters()],
                        "lr": rates[level - 1],
                        "initial_lr": rates[level - 1],
                        "weight_decay": decays[level - 1],
                        "name": f"{direction}_{level}",
                    }
                )
        return groups

    def rate_factor(self) -> float:
        """Learning rate now, as a fraction of the initial one."""
        left = 1.0 - self.progress
        return 1.0 if left >= 1.0 - self.hold else max(left, 0.0) / (1.0 - self.hold)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.updates = self.global_step
        self.progress = min(1.0, self.updates / self.trainer.estimated_stepping_batches)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.rate_factor()
        losses = self.gradients(batch)
        optimizer.step()
        if self._ledger.filled and self._ledger.names != list(losses):  # another phase of training
            self._read_ledger()
        full = self._ledger.record(self.updates, losses)
        if full or self.trainer.is_last_batch:
            self._read_ledger()

    def gradients(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """The losses of a batch; their gradients are left in the parameters."""
        for (
            parameter
        ) in self.parameters():  # before the losses, which find room in the memory that this frees
            parameter.grad = None
        losses = self.losses(batch)
        self.manual_backward(sum(losses.values()))
        return losses

    def phase(self) -> Hashable | None:
        """What `losses` has taken from Python for this update, apart from `progress`; None where that cannot be repeated.

        Two updates in one phase, on batches of one shape, launch the same operations: see `gendae.graphs`.
        """
        return None if self.handles_missing else ()

    def _read_ledger(self) -> None:
        means = self._ledger.flush(lambda rows: mean_of_ranks(self.trainer, rows))
        losses = {f"loss/{name}": value for name, value in means.items()}
        self.log_dict(
            losses, logger=False
        )  # for callbacks; a Trainer would write them again after every update
        for logger in self.loggers if losses else ():
            logger.log_metrics({**losses, "epoch": self.current_epoch}, self.updates)

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._log_reconstruction("val", batch[0])

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._log_reconstruction("test", batch[0])

    def _log_reconstruction(self, split: str, x: Tensor) -> None:
        """Squared error of x up to each level and back, summed over pixels, mean over images."""
        errors = {
            f"{split}/reconstruction_{level}": (self.stack.reconstruct(x, level) - x)
            .square()
            .sum(-1)
            .mean()
            for level in range(1, self.stack.depth + 1)
        }
        log_means(self, errors, len(x))

    # -- the prior: last lines of TRAIN ----------------------------------------------------------------

    @torch.no_grad()
    def follow_codes(self, x: Tensor, prior: Prior) -> None:
        """Keep a prior in step with the codes while training: fit it on the latest ones when that is due.

        A prior that was never fitted is fitted on the first batch, so that its terms exist from the start.
        """
        if prior.fitted and (self.prior_every == 0 or prior.fixed):
            return
        codes = self._of_all_ranks(self.codes(x))
        old = codes[:0] if self._recent is None else self._recent.to(codes)
        self._recent = torch.cat([old, codes])[-MEMORY:]
        due = (
            self.prior_every and self.updates is not None and self.updates % self.prior_every == 0
        )
        if due or not prior.fitted:
            prior.fit(self._recent)

    @torch.no_grad()
    def fit_prior(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """Fit P(h_L) on the codes of all batches, and measure the residuals of P(h_l | h_L) on the first.

        Of very large data, on the first `PRIOR_EXAMPLES` of their (random) order. Under DDP, on all ranks' codes.
        """
        first, codes = None, []
        for batch in batches:
            if sum(map(len, codes)) >= PRIOR_EXAMPLES:
                break
            x = self.examples(like_parameters(self.stack, batch))
            if first is None or len(first) == 0:
                first = x
            if len(x) > 0:
                codes.append(self.codes(x))
            # few large tensors: many small ones between the batches' would keep freed memory from being used again
            while len(codes) > 1 and len(codes[-2]) <= len(codes[-1]):
                codes[-2:] = [torch.cat(codes[-2:])]
        if first is not None:  # a process may have none of the codes
            found = torch.cat(codes) if codes else first.new_empty(0, self.stack.sizes[-1])
            first, found = self._of_all_ranks(first), self._of_all_ranks(found)
        if first is None or len(first) == 0:
            raise ValueError(
                "no training example is complete: the prior is fitted on codes of examples of which all "
                "modalities are observed"
            )
        self.stack.fit_residuals(first)
        self.stack.prior.fit(found)

    def _of_all_ranks(self, codes: Tensor) -> Tensor:
        """The codes of all processes, so that each fits the same prior."""
        return codes if self._trainer is None else of_all_ranks(self.trainer, codes)

    def _training_batches(self) -> Iterable[Sequence[Tensor]]:
        loader = self.trainer.train_dataloader
        return loader.sequential() if hasattr(loader, "sequential") else loader

    def on_validation_start(self) -> None:
        if self.generative and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self.fit_prior(self._training_batches())
            self._prior_fitted_at = self.global_step

    def on_train_end(self) -> None:
        if (
            self.generative and self._prior_fitted_at != self.global_step
        ):  # no validation after the last update
            self.fit_prior(self._training_batches())

    # -- randomness and persistence --------------------------------------------------------------------

    def configure_model(self) -> None:
        """Whatever Trainer is used writes whole files, and loads them in the precision that they were written in."""
        if self._trainer is not None:
            checkpointing.install(self.trainer.strategy)
            if self.trainer.precision == "64-true":
                self.trainer.precision_plugin.convert_module(self)

    def on_fit_start(self) -> None:
        if self.trainer.precision.startswith("16"):
            raise ValueError(
                f"precision={self.trainer.precision!r} is not supported; accepted: "
                "32-true, 64-true, bf16-mixed"
            )
        check_modalities(
            self.stack, getattr(self.trainer, "datamodule", None), self.handles_missing
        )
        self.generator = Generator(self.device)
        self.generator.manual_seed(torch.initial_seed() + RANK_STRIDE * self.global_rank)
        resumed = self._resumed
        restoring.continue_noise(self.generator, resumed.get("generator"), self.global_rank)
        self._recent, self._prior_fitted_at = (
            resumed.get("recent_codes"),
            resumed.get("prior_fitted_at", -1),
        )
        self._ledger = LossLedger(self.log_every)
        earlier = resumed.get("gendae", {}).get("facts", {})
        self.stack.facts.update(
            rule=type(self).__name__,
            seed=earlier.get("seed", torch.initial_seed()),
            **restoring.facts_of(getattr(self.trainer, "datamodule", None)),
        )
        self._started = time.perf_counter() - earlier.get("seconds", 0.0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.state.fn == "fit":
            self._refuse_diverged(checkpoint)
        self.stack.facts.update(epochs=self.current_epoch + 1, updates=self.global_step)
        if self._started is not None:
            self.stack.facts["seconds"] = round(time.perf_counter() - self._started, 1)
        checkpoint["hyper_parameters"] = arguments(self)
        checkpoint["gendae"] = {"rule": type(self).__name__, "facts": self.stack.facts}
        if self.generator is not None:
            checkpoint["generator"] = restoring.noise_of_all_ranks(self)
        checkpoint["prior_fitted_at"] = self._prior_fitted_at
        checkpoint["prior_due"] = (
            self.generative
            and self._prior_fitted_at != self.global_step
            and restoring.before_validation(self.trainer)
        )
        if self._recent is not None:
            checkpoint["recent_codes"] = self._recent.clone()

    def _refuse_diverged(self, checkpoint: dict[str, Any]) -> None:
        """A stack with losses or weights that are not finite is never written over a good checkpoint."""
        rows = self._ledger.rows
        if self._ledger.filled and not bool(
            mean_of_ranks(self.trainer, rows[: self._ledger.filled]).isfinite().all()
        ):
            self._ledger.flush(lambda rows: mean_of_ranks(self.trainer, rows))
        bad = restoring.non_finite_parts(checkpoint)
        if bad:
            raise TrainingDiverged(
                f"{bad} hold NaN or infinite values at step {self.global_step}: nothing is saved, the "
                "last good checkpoint is kept; lower the learning rates"
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        fitting = self._trainer is not None and self.trainer.state.fn == "fit"
        path = "the checkpoint" if self._trainer is None else self.trainer.ckpt_path
        restoring.check(path, checkpoint, self, fitting)
        restoring.take_tied_noise(self, checkpoint)
        if fitting:
            self._resumed = {k: checkpoint[k] for k in restoring.CONTINUED if k in checkpoint}

    def on_train_epoch_start(self) -> None:
        """What Lightning passes over when it goes on from the end of an epoch: the order of the images."""
        if self._resumed.get("global_step") == self.global_step:
            restoring.continue_order(self.trainer, self._resumed)

    def on_train_batch_start(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """.. and from the last batch before a validation: the prior that it would have fitted."""
        if self._resumed:
            due = (
                self._resumed.get("prior_due") and self._resumed["global_step"] == self.global_step
            )
            self._resumed = {}
            if due:
                self.fit_prior(self._training_batches())
                self._prior_fitted_at = self.global_step
