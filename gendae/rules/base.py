"""The one training loop: local losses in, one step of every layer out.

A rule fills one hole, `losses(batch)`: a named loss for each layer and direction, whose inputs and
targets are detached. One backward pass through their sum then gives each layer its own gradient,
and nothing crosses from one layer to another. One optimizer with a parameter group per layer and
direction holds the rates (and keeps Lightning's `global_step` equal to the number of updates).
"""

import time
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Generator, Tensor

from gendae import checks
from gendae.data.base import facts_of
from gendae.layers.pair import Pair
from gendae.models.joint import check_modalities
from gendae.models.stack import Stack
from gendae.priors.base import Prior
from gendae.registry import arguments, build
from gendae.rules import resume
from gendae.rules.ledger import LossLedger, TrainingDiverged
from gendae.rules.processes import like_parameters, log_means, mean_of_ranks, of_all_ranks
from gendae.storage import archive, verify

PerLayer = float | Sequence[float]
#: How many of the latest codes a prior is fitted on in the middle of training.
MEMORY = 5000
#: How many examples of each process, at most, a prior is fitted on after an epoch.
PRIOR_EXAMPLES = 200_000
#: A prime: seeds of the ranks' noise must differ, and not meet other small seeds.
RANK_STRIDE = 7919


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
        prior_every: updates between two fits of P(h_L) on the latest top-level codes, for rules
            that use the prior while they train; 0 fits it on all training codes before each
            validation only.

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
                f"stack={type(self.stack).__name__}: {type(self).__name__} trains generative "
                "stacks, and would leave the output layer as it is; accepted: a Stack"
            )

        self.lr_f = lr_f
        self.lr_g = lr_g
        self.weight_decay_f = weight_decay_f
        self.weight_decay_g = weight_decay_g
        if not 0.0 <= hold <= 1.0:
            raise ValueError(f"hold={hold} is a fraction of training: between 0 and 1")
        self.hold = hold
        self.log_every = checks.whole("log_every", log_every, 1)
        for direction in "fg":
            for name in (f"lr_{direction}", f"weight_decay_{direction}"):
                checks.per_layer(name, getattr(self, name), len(self.maps(direction)))
        self.prior_every = checks.whole("prior_every", prior_every, 0)

        self.progress = 0.0
        self.updates = None
        self.generator: Generator | None = None

        self._resumed: dict[str, Any] = {}
        self._recent: Tensor | None = None
        self._ledger = LossLedger(self.log_every)
        self._prior_fitted_at = -1
        self._started: float | None = None

    # -- what a rule defines -------------------------------------------------------------------

    def losses(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """Local losses in nats, mean over the batch; batch[0] is x.

        They are named term_l, or term_f_l and term_g_l.
        """
        raise NotImplementedError(f"{type(self).__name__} must define losses")

    @staticmethod
    def own_penalty(pair: Pair, level: int) -> dict[str, Tensor]:
        """An encoder's own penalty, such as orthogonality of an invertible layer (2014, 6)."""
        penalty = getattr(pair.f, "penalty", None)
        if penalty is None:
            return {}

        return {f"penalty_f_{level}": penalty()}

    def codes(self, x: Tensor) -> Tensor:
        """Top-level codes on which the prior is fitted; by default the feed-forward ones."""
        return self.stack.encode(x)[-1]

    def examples(self, batch: Sequence[Tensor]) -> Tensor:
        """x of the examples in a batch on whose codes the prior is fitted."""
        return batch[0]

    # -- the loop ------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with one parameter group per layer and direction."""
        return self.optimizer_of([*self._groups("f"), *self._groups("g")])

    def optimizer_of(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer over parameter groups, each with its rate and decay."""
        return torch.optim.AdamW(groups, fused=self.stack.device.type in ("cpu", "cuda"))

    def maps(self, direction: str) -> list[list[object]]:
        """For each layer, its encoder ("f") or decoder ("g") with the law around it."""
        if direction == "f":
            return [[pair.f, pair.recognition] for pair in self.stack.pairs]

        return [[pair.g, pair.observation] for pair in self.stack.pairs]

    def _groups(self, direction: str) -> list[dict[str, Any]]:
        """The parameter groups of all encoders ("f") or all decoders ("g")."""
        maps = self.maps(direction)
        rates = checks.per_layer("lr", getattr(self, f"lr_{direction}"), len(maps))
        decay = getattr(self, f"weight_decay_{direction}")
        decays = checks.per_layer("weight_decay", decay, len(maps))

        groups = []
        for level, parts in enumerate(maps, 1):
            parameters = []
            for part in parts:
                parameters += part.parameters()

            groups.append(
                {
                    "params": parameters,
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
        if left >= 1.0 - self.hold:
            return 1.0

        return max(left, 0.0) / (1.0 - self.hold)

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
        # before the losses, which find room in the memory that this frees
        for parameter in self.parameters():
            parameter.grad = None

        losses = self.losses(batch)
        self.manual_backward(sum(losses.values()))
        return losses

    def phase(self) -> Hashable | None:
        """What `losses` has taken from Python for this update, apart from `progress`.

        Two updates in one phase, on batches of one shape, launch the same operations: see
        `gendae.training.graphs`. None stands for an update that cannot be repeated.
        """
        if self.handles_missing:
            return None

        return ()

    def _read_ledger(self) -> None:
        means = self._ledger.flush(self._mean_of_ranks)
        losses = {f"loss/{name}": value for name, value in means.items()}

        # for callbacks; a Trainer would write them again after every update
        self.log_dict(losses, logger=False)

        if losses:
            for logger in self.loggers:
                logger.log_metrics({**losses, "epoch": self.current_epoch}, self.updates)

    def _mean_of_ranks(self, values: Tensor) -> Tensor:
        return mean_of_ranks(self.trainer, values)

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

    # -- the prior: last lines of TRAIN --------------------------------------------------------

    @torch.no_grad()
    def follow_codes(self, x: Tensor, prior: Prior) -> None:
        """Keep a prior in step with the codes in training: fit it on the latest when a fit is due.

        A prior that was never fitted is fitted on the first batch: its terms exist from the start.
        """
        if prior.fitted and (self.prior_every == 0 or prior.fixed):
            return

        codes = self._of_all_ranks(self.codes(x))
        earlier = codes[:0]
        if self._recent is not None:
            earlier = self._recent.to(codes)
        self._recent = torch.cat([earlier, codes])[-MEMORY:]

        if self._prior_is_due() or not prior.fitted:
            prior.fit(self._recent)

    def _prior_is_due(self) -> bool:
        if self.prior_every == 0 or self.updates is None:
            return False

        return self.updates % self.prior_every == 0

    @torch.no_grad()
    def fit_prior(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """Fit P(h_L) on the codes of all batches, and residuals of P(h_l | h_L) on the first.

        Very large data give the first `PRIOR_EXAMPLES` examples of their (random) order only.
        Under DDP the codes are those of all ranks.
        """
        first, codes = self._encoded(batches)
        if first is not None:
            first = self._of_all_ranks(first)
            codes = self._of_all_ranks(codes)

        if first is None or len(first) == 0:
            raise ValueError(
                "no training example is complete: the prior is fitted on codes of examples of "
                "which all modalities are observed"
            )

        self.stack.fit_residuals(first)
        self.stack.prior.fit(codes)

    def _encoded(
        self, batches: Iterable[Sequence[Tensor]]
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """x of the first batch with examples, and all batches' codes; None without batches."""
        first = None
        codes: list[Tensor] = []
        for batch in batches:
            if sum(map(len, codes)) >= PRIOR_EXAMPLES:
                break

            x = self.examples(like_parameters(self.stack, batch))
            if first is None or len(first) == 0:
                first = x
            if len(x) > 0:
                append_in_few(codes, self.codes(x))

        if first is None:
            return None, None
        if not codes:  # a process may have none
            return first, first.new_empty(0, self.stack.sizes[-1])

        return first, torch.cat(codes)

    def _of_all_ranks(self, codes: Tensor) -> Tensor:
        """The codes of all processes, so that each fits the same prior."""
        if self._trainer is None:
            return codes

        return of_all_ranks(self.trainer, codes)

    def _training_batches(self) -> Iterable[Sequence[Tensor]]:
        loader = self.trainer.train_dataloader
        if hasattr(loader, "sequential"):
            return loader.sequential()

        return loader

    def on_validation_start(self) -> None:
        if self.generative and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self.fit_prior(self._training_batches())
            self._prior_fitted_at = self.global_step

    def on_train_end(self) -> None:
        # there may have been no validation after the last update
        if self.generative and self._prior_fitted_at != self.global_step:
            self.fit_prior(self._training_batches())

    # -- randomness and persistence ------------------------------------------------------------

    def configure_model(self) -> None:
        """Make any Trainer write whole files, and load them in the precision of their writing."""
        if self._trainer is None:
            return

        archive.install(self.trainer.strategy)
        if self.trainer.precision == "64-true":
            self.trainer.precision_plugin.convert_module(self)

    def on_fit_start(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if self.trainer.precision.startswith("16"):
            raise ValueError(
                f"precision={self.trainer.precision!r} is not supported; accepted: "
                "32-true, 64-true, bf16-mixed"
            )
        check_modalities(self.stack, data, self.handles_missing)

        resumed = self._resumed
        self.generator = Generator(self.device)
        self.generator.manual_seed(torch.initial_seed() + RANK_STRIDE * self.global_rank)
        resume.continue_noise(self.generator, resumed.get("generator"), self.global_rank)

        self._recent = resumed.get("recent_codes")
        self._prior_fitted_at = resumed.get("prior_fitted_at", -1)
        self._ledger = LossLedger(self.log_every)

        earlier = resumed.get("gendae", {}).get("facts", {})
        self.stack.facts.update(
            rule=type(self).__name__,
            seed=earlier.get("seed", torch.initial_seed()),
            **facts_of(data),
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
            checkpoint["generator"] = resume.noise_of_all_ranks(self)

        checkpoint["prior_fitted_at"] = self._prior_fitted_at
        checkpoint["prior_due"] = (
            self.generative
            and self._prior_fitted_at != self.global_step
            and resume.before_validation(self.trainer)
        )
        if self._recent is not None:
            checkpoint["recent_codes"] = self._recent.clone()

    def _refuse_diverged(self, checkpoint: dict[str, Any]) -> None:
        """Raise where losses or weights are not finite: a good checkpoint is never overwritten."""
        ledger = self._ledger
        if ledger.filled:
            losses = self._mean_of_ranks(ledger.rows[: ledger.filled])
            if not bool(losses.isfinite().all()):
                ledger.flush(self._mean_of_ranks)

        bad = verify.non_finite_parts(checkpoint)
        if bad:
            raise TrainingDiverged(
                f"{bad} hold NaN or infinite values at step {self.global_step}: nothing is saved, "
                "the last good checkpoint is kept; lower the learning rates"
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        path = "the checkpoint"
        fitting = False
        if self._trainer is not None:
            path = self.trainer.ckpt_path
            fitting = self.trainer.state.fn == "fit"

        verify.check(path, checkpoint, self, fitting)
        resume.take_tied_noise(self, checkpoint)
        if fitting:
            self._resumed = {k: checkpoint[k] for k in resume.CONTINUED if k in checkpoint}

    def on_train_epoch_start(self) -> None:
        """Continue the order of the images: Lightning does not where it resumes between epochs."""
        if self._resumed.get("global_step") == self.global_step:
            resume.continue_order(self.trainer, self._resumed)

    def on_train_batch_start(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Fit the prior where Lightning resumes after the last batch before a validation.

        The validation would have fitted it.
        """
        if not self._resumed:
            return

        resumed = self._resumed
        self._resumed = {}
        if resumed.get("prior_due") and resumed["global_step"] == self.global_step:
            self.fit_prior(self._training_batches())
            self._prior_fitted_at = self.global_step


def append_in_few(tensors: list[Tensor], new: Tensor) -> None:
    """Append rows to a list of tensors, joining the last ones so that few large tensors remain.

    Many small ones between those of the batches would keep freed memory from being used again.
    """
    tensors.append(new)
    while len(tensors) > 1 and len(tensors[-2]) <= len(tensors[-1]):
        tensors[-2:] = [torch.cat(tensors[-2:])]
