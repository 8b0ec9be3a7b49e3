"""Every rule on a small problem, trained alike in one process and in several.

`python -m tests.training.processes FOLDER` runs all cases in two processes; each writes its
results into FOLDER.
"""

import logging
import os
import subprocess
import sys
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Generator
from torch.utils.data import DataLoader, TensorDataset

from gendae import corruption
from gendae.corruption import GaussianNoise, SpikeNoise
from gendae.data.base import SPLITS
from gendae.data.images import Digits
from gendae.data.labels import PartlyLabelled
from gendae.data.loader import Split
from gendae.data.multimodal import FewLabels, Multimodal
from gendae.metrics.parzen import ParzenLogLikelihood
from gendae.models.architectures import (
    deep_autoencoder,
    denoising_blocks,
    denoising_classifier,
    goodness_classifier,
    joint_autoencoder,
    recurrent_classifier,
    tree_classifier,
    tree_pair,
    with_labels,
)
from gendae.models.settings import Settings
from gendae.models.stack import Stack
from gendae.models.trees import Quadtree
from gendae.priors.autoencoder import AutoencoderPrior, Learning, Walk
from gendae.priors.denoiser import LevelMLP
from gendae.priors.factorial import FactorialPrior
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.parzen import ParzenPrior
from gendae.rules import (
    backprop,
    backstep,
    blocks,
    by_feedback,
    difference,
    equilibrium,
    forward_forward,
    hebbian,
    importance_weighted,
    joint,
    kl,
    labelled,
    ledger,
    nudged_em,
    nudged_stdp,
    online,
    perturbation,
    predictive_coding,
    recurrent,
    single_layer,
    stdp,
    targetprop,
    trees,
    variational_em,
    wake_sleep,
)
from gendae.rules.difference import InverseLearning, Iterations
from gendae.rules.differences import DifferenceLoop
from gendae.rules.direct import DirectDifference
from gendae.rules.joint import JointWeights
from gendae.rules.loops import LoopWeights, ShortAndLongLoops
from gendae.rules.missing import Hiding, Inferring
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.transposes import (
    DifferenceReconstruction,
    LocalDifference,
    SignSymmetry,
    WeightMirror,
)
from gendae.training.callbacks import CreditMonitor, ParzenMonitor
from tests.training.resuming import bits, learned, network, stack

PICTURES = TemporaryDirectory()  # what monitors draw
ROWS = 40  # of a batch of all processes together
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "accelerator": "cpu",
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class Few(Digits):
    """The first digits of each split: even numbers of them, unless said otherwise."""

    def __init__(self, batch_size=ROWS, train=200, valid=100, test=100):
        super().__init__(batch_size)
        self.numbers = dict(zip(SPLITS, (train, valid, test), strict=True))

    def read(self):
        splits, shape = super().read()
        return {name: split[: self.numbers[name]] for name, split in splits.items()}, shape


class FewModalities(Multimodal):
    def __init__(self, batch_size=ROWS, **options):
        super().__init__(Few(), ["image", "label"], batch_size=batch_size, **options)


class Labelled(PartlyLabelled):
    def __init__(self, batch_size=ROWS):
        super().__init__(Few(), FewLabels(20, share=0.5), batch_size=batch_size)


def both(prior=None, **options):
    members = {"image": {"sizes": [64, 8]}, "label": {"sizes": [10], "kind": "onehot"}}
    return joint.JointTargetPropRule(
        joint_autoencoder(members, [12, 6], prior=prior),
        [GaussianNoise(0.1)] * 4,
        feedback=LocalDifference(rows=ROWS, every=1),
        log_every=3,
        **options,
    )


class NoneComplete(FewModalities):
    """Every other example lacks its label: of two processes, one has no complete example."""

    def read(self):
        splits, shape = super().read()
        for name, split in splits.items():
            seen = split.observed.clone()
            seen[1::2, 1] = False
            there = seen.repeat_interleave(torch.tensor([64, 10]), 1)
            splits[name] = Split(split.x * there, observed=seen)

        return splits, shape


class Diverges(backstep.BackStepRule):
    """A rule whose loss becomes NaN in one of several processes."""

    def losses(self, batch, moment=Moment()):
        terms = super().losses(batch, moment)
        last = self.global_rank == self.trainer.world_size - 1

        if last and moment.update == 2:
            return {name: term * float("nan") for name, term in terms.items()}

        return terms


#: Rules by name of the case: all of gendae.rules that can be trained, and options that add terms,
#: priors or phases.
RULES = {
    "em": lambda: variational_em.VariationalEMRule(
        stack(),
        warmup=3,
        log_every=3,
        prior_codes="inferred",
        corruption=[GaussianNoise(0.5), GaussianNoise(0.3), SpikeNoise(3)],
    ),
    "stdp": lambda: stdp.STDPRule(stack(), warmup=3, log_every=3),
    "labels": lambda: labelled.LabelledEMRule(
        with_labels(stack()),
        log_every=3,
        corruption=[GaussianNoise(0.5), GaussianNoise(0.3), SpikeNoise(3)],
    ),
    "nudged by labels": lambda: nudged_em.NudgedEMRule(
        with_labels(stack()),
        log_every=3,
        corruption=[GaussianNoise(0.5), GaussianNoise(0.3), SpikeNoise(3)],
    ),
    "kl": lambda: kl.KLRule(learned(), prior_every=4),
    "kl within layers": lambda: kl.KLRule(
        stack(FactorialPrior()), reach="within_layer", prior_every=4
    ),
    "kl under parzen": lambda: kl.KLRule(stack(ParzenPrior(), noise=0.2), prior_every=4),
    "wake-sleep": lambda: wake_sleep.WakeSleepRule(bits(), prior_every=4),
    "reweighted wake-sleep": lambda: wake_sleep.ReweightedWakeSleepRule(bits(), prior_every=4),
    "importance weighted": lambda: importance_weighted.ImportanceWeightedRule(
        stack(FactorialPrior(), noise=0.2), prior_every=4
    ),
    "target prop": lambda: targetprop.TargetPropRule(
        stack(GaussianPrior()),
        ShortAndLongLoops(LoopWeights(model=1.0), top_target="prior"),
        [GaussianNoise(0.2)] * 3,
        contractive=0.1,
        sparsity=0.1,
        prior_every=4,
    ),
    "target prop under an auto-encoder": lambda: targetprop.TargetPropRule(
        stack(AutoencoderPrior([16], 8, learning=Learning(1), walk=Walk(2))),
        ShortAndLongLoops(top_target="prior"),
        [GaussianNoise(0.2)] * 3,
        prior_every=4,
    ),
    "target prop in stages": lambda: targetprop.TargetPropRule(
        stack(GaussianPrior()),
        DifferenceLoop(LocalDifference(rows=ROWS, every=2), start=3, align=2, pull="prior"),
        [GaussianNoise(0.2)] * 3,
        prior_every=4,
    ),
    "single layers by hebb": lambda: single_layer.HebbianRule(stack()),
    "competitive": lambda: single_layer.CompetitiveRule(
        deep_autoencoder([64, 12, 8], ["softmax", "softmax"])
    ),
    "back step": lambda: backstep.BackStepRule(stack()),
    "denoising blocks": lambda: blocks.DenoisingBlocksRule(
        denoising_blocks(64, 2, network=LevelMLP(12, 1))
    ),
    "denoising blocks in turn": lambda: blocks.DenoisingBlocksRule(
        denoising_blocks(64, 2, network=LevelMLP(12, 1)), "in turn"
    ),
    "denoising labels": lambda: blocks.DenoisingLabelsRule(
        denoising_classifier([64, 12, 8], blocks=2, network=LevelMLP(12, 1))
    ),
    "online": lambda: online.OnlineDeltaRule(
        stack(),
        online.Presentation(ticks=4, blank=2, noise=0.2),
        plasticity=online.DeltaPlasticity([1.0, 3.0]),
        log_every=3,
    ),
    "joint": both,
    "joint with few labels": lambda: both(
        weights=JointWeights(recirculation=0.1),
        hiding=Hiding(walkback=1),
        inferring=Inferring(weight=1.0, confidence=0.2, ramp=0.0),
    ),
    "difference": lambda: difference.DifferenceTargetPropRule(network()),
    "difference in phases": lambda: difference.DifferenceTargetPropRule(
        network(), rates=Rates(optimizer="rmsprop"), inverses=InverseLearning(schedule="alternate")
    ),
    "difference after a warm-up": lambda: difference.DifferenceTargetPropRule(
        network(),
        iterations=Iterations(rounds=2, reconstruct=0.1),
        inverses=InverseLearning(warmup=3),
    ),
    "difference of draws": lambda: difference.DifferenceTargetPropRule(
        network(stochastic=True, settings=Settings(samples=5)), samples=3
    ),
    "difference from the output": lambda: difference.DifferenceTargetPropRule(
        network(), inverses=InverseLearning(warmup=2, output=True)
    ),
    "backprop": lambda: backprop.BackpropRule(network(), input_corruption=GaussianNoise(0.1)),
    "backprop above a fixed layer": lambda: backprop.BackpropRule(
        network(), fixed=1, rates=Rates(optimizer="sgd")
    ),
    "straight through bits": lambda: backprop.StraightThroughRule(network(bits=[1])),
    "feedback alignment": lambda: backprop.FeedbackAlignmentRule(network()),
    "learned feedback": lambda: by_feedback.FeedbackRule(
        network(), LocalDifference(rows=ROWS, every=2), align=3
    ),
    "mirrored bits": lambda: by_feedback.FeedbackRule(
        network(bits=[1]), WeightMirror(rows=ROWS, tracks=False, every=1), align=0
    ),
    "difference reconstruction": lambda: by_feedback.FeedbackRule(
        network(), DifferenceReconstruction(rows=ROWS), align=2
    ),
    "sign symmetry": lambda: by_feedback.FeedbackRule(network(), SignSymmetry("fixed")),
    "direct differences": lambda: by_feedback.FeedbackRule(
        network(), DirectDifference(hidden=9, rows=ROWS), align=2
    ),
    "recurrent": lambda: recurrent.RecurrentTargetPropRule(recurrent_classifier(8, 8, 12)),
    "recurrent transpose": lambda: recurrent.RecurrentTargetPropRule(
        recurrent_classifier(8, 8, 12, scale=0.1), learns="transpose"
    ),
    "transpose feedback": lambda: recurrent.TransposeFeedbackRule(
        recurrent_classifier(8, 8, 12, scale=0.1)
    ),
    "truncated": lambda: recurrent.TruncatedBackpropRule(
        recurrent_classifier(8, 8, 12), horizon=3
    ),
    "regularised inversion": lambda: recurrent.RegularizedInversionRule(
        recurrent_classifier(8, 8, 12)
    ),
    "trees": lambda: trees.TreeTargetPropRule(
        tree_classifier(Quadtree([8, 8], patch=2), 12), telling=trees.Telling(short=0.1, long=0.1)
    ),
    "trees told again": lambda: targetprop.TargetPropRule(
        Stack(tree_pair(Quadtree([8, 8], patch=2), 12)), trees.TreeLoop(), prior_every=3
    ),
    "delta": lambda: single_layer.DeltaRule(network()),
    "generec": lambda: hebbian.GeneRecRule(network(), gamma=0.5, sweeps=1),
    "reinforce": lambda: perturbation.ReinforceRule(network(stochastic=True), "others", samples=2),
    "nodes": lambda: perturbation.NodePerturbationRule(network(), central=True),
    "weights": lambda: perturbation.WeightPerturbationRule(network(), noise="signs"),
    "nudged stdp": lambda: nudged_stdp.NudgedSTDPRule(network()),
    "equilibrium": lambda: equilibrium.EquilibriumPropagationRule(network()),
    "forward-forward": lambda: forward_forward.ForwardForwardRule(
        goodness_classifier([64, 12, 8])
    ),
    "predictive coding": lambda: predictive_coding.PredictiveCodingRule(network(), steps=4),
    "hebbian": lambda: hebbian.ContrastiveHebbianRule(network(), symmetric=False),
}
#: Cases whose credit assignment is measured on the way, which takes time.
MEASURED = ("difference", "generec")
DATA = {
    "labels": Labelled,
    "nudged by labels": Labelled,
    "joint": FewModalities,
    "joint with few labels": lambda rows: FewModalities(rows, labelled=FewLabels(20)),
}
#: Cases of a rule on other data: numbers that processes cannot share out evenly, or shares without
#: any (complete) example.
ODD = {
    "em": lambda rows: Few(rows, 201, 101, 61),
    "difference": lambda rows: Few(rows, 203, 3, 3),
    "generec": lambda rows: Few(rows, 200, 41, 41),
    "joint": NoneComplete,
    "joint with few labels": lambda rows: FewModalities(rows, labelled=FewLabels(20, share=0.5)),
}
#: Cases trained with noise as each process draws it, then resumed: a local rule, one that is not,
#: and one of drawn units. The noise of all rules is that of one class, and in the other trainings
#: the rows of two processes have different noise, too.
RESUMED = ("em", "kl", "difference of draws")
ROUNDED = ("em", "kl", "difference")  # in half precision
#: Numbers of training and validation images that leave a process with none, or with too few for a
#: batch.
STARVED = {
    "one image": (1, 10),
    "no validation image for one": (50, 1),
    "less than a batch": (7, 10),
}


@dataclass
class Place:
    """Which process this is, of how many."""

    rank: int = 0
    ranks: int = 1


@contextmanager
def noise_of_rows(rule, place):
    """A rule's noise becomes a function of the row among the rows of all processes.

    So the noise is the same however rows are shared out.
    """
    source = Generator().manual_seed(1)
    rows = ROWS // place.ranks
    draws = {"normal_like": torch.randn, "uniform_like": torch.rand}
    originals = {name: getattr(corruption, name) for name in draws}
    modules = [m for name, m in sys.modules.items() if name.startswith("gendae.")]

    def indexed(name):
        def like(h, generator=None):
            own = generator is not None and generator is rule.source_of_noise.generator
            sets, left = divmod(h.shape[:-1].numel(), rows)

            # a generator of seed 0 is that of validation and prior, which draw for themselves
            if not own or generator.initial_seed() == 0 or left:
                return originals[name](h, generator)

            whole = draws[name](sets, ROWS, h.shape[-1], generator=source, dtype=h.dtype)
            return whole[:, place.rank :: place.ranks].reshape(h.shape)

        return like

    try:
        for module in modules:
            for name in originals.keys() & vars(module).keys():
                setattr(module, name, indexed(name))

        yield
    finally:
        for module in modules:
            for name in originals.keys() & vars(module).keys():
                setattr(module, name, originals[name])


def trainer(ranks, **options):
    """A quiet trainer; `ranks` processes of it where there are several."""
    defaults = {
        "max_epochs": 2,
        "limit_train_batches": 5,
        "default_root_dir": PICTURES.name,
        "devices": ranks,
        **QUIET,
    }
    if ranks > 1:
        defaults["strategy"] = "ddp"

    return Trainer(**{**defaults, **options})


def state_of(rule, t):
    """All that training leaves behind, and what it logged."""
    optimizer = rule.optimizers(use_pl_optimizer=False)
    moments = {}
    for i, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if value is not None:
                moments[f"{i} {name}"] = torch.as_tensor(value).clone()

    return {
        "weights": {name: value.clone() for name, value in rule.stack.state_dict().items()},
        "optimizer": moments,
        "rates": [group["lr"] for group in optimizer.param_groups],
        "metrics": {name: value.item() for name, value in t.callback_metrics.items()},
        "noise": torch.randn(3, generator=rule.source_of_noise.generator),
        "recent": rule.prior_fit.recent,
        "residuals": rule.stack.residuals,
    }


def fitted(name, ranks, indexed=True, data=None, **options):
    """A rule after ten updates, its trainer and its state.

    `indexed` noise is the same however rows are shared out.
    """
    torch.manual_seed(1)
    rule = RULES[name]()
    monitors = [ParzenMonitor(300, picture=False), CreditMonitor(int(name in MEASURED), 50)]
    defaults = {"precision": 32, "callbacks": monitors}
    if indexed:
        defaults["precision"] = 64

    t = trainer(ranks, **{**defaults, **options})
    noise = nullcontext()
    if indexed:
        noise = noise_of_rows(rule, Place(t.global_rank, t.world_size))

    make = data or DATA.get(name, Few)
    with noise:
        t.fit(rule, make(ROWS // ranks))

    return rule, t, state_of(rule, t)


def tested(name, ranks):
    """Metrics of a test, and Parzen scores, on data that processes cannot share out evenly."""
    rule, t, state = fitted(name, ranks, data=ODD[name])
    data = t.datamodule
    t.test(rule, data, verbose=False)

    metric = ParzenLogLikelihood(data.split("train").x[:50], sigma=0.4)
    for x, *_ in data.val_dataloader():
        metric.update(x)

    return state | {
        "test": {name: value.item() for name, value in t.callback_metrics.items()},
        "ll": metric.compute().item(),
        "se": metric.standard_error.item(),
    }


def starved(name, ranks):
    """What a fit with hardly any images ends in: metrics, or an error."""
    train, valid = STARVED[name]
    try:
        return fitted("back step", ranks, False, lambda rows: Few(rows, train, valid))[2]
    except ValueError as error:
        return str(error)


def diverged(ranks):
    """The error that ends a fit of which one process diverges."""
    rule = Diverges(stack(), log_every=3)
    try:
        trainer(ranks, max_epochs=1).fit(rule, Few(ROWS // ranks))
    except ledger.TrainingDiverged as error:
        return str(error)

    return "no error"


def resumed(name, folder):
    """The state of a rule that two processes train for an epoch, and two new ones for the next."""
    keep = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    fitted(name, 2, False, callbacks=[keep], enable_checkpointing=True)

    torch.manual_seed(99)
    rule = RULES[name]()
    t = trainer(2)
    t.fit(rule, DATA.get(name, Few)(ROWS // 2), ckpt_path=f"{folder}/epoch=0.ckpt")

    return state_of(rule, t)


def moved(before, after, folder):
    """Weights of ten updates, of one number of processes, and the last six of another one.

    The rule has no noise, and the batches of all processes together stay as they are.
    """
    states = []
    for ranks, ckpt_path in ((before, None), (after, f"{folder}/step=4.ckpt")):
        torch.manual_seed(1)
        rule = RULES["feedback alignment"]()
        keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=4, save_top_k=-1)
        t = trainer(ranks, precision=64, callbacks=[keep], enable_checkpointing=True)
        t.fit(rule, Few(ROWS // ranks), ckpt_path=ckpt_path)
        states.append({name: value.clone() for name, value in rule.stack.state_dict().items()})

    return states


def plain(ranks):
    """Metrics of a fit on torch's own loaders, of which each process has a share."""
    torch.manual_seed(1)
    x = Few().split("train").x
    loaders = [DataLoader(TensorDataset(x), ROWS // ranks) for _ in range(2)]
    t = trainer(ranks, callbacks=[ParzenMonitor(300, picture=False)])
    t.fit(RULES["back step"](), *loaders)

    return {name: value.item() for name, value in t.callback_metrics.items()}


def everything(ranks):
    """All cases, in this process and those beside it."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    results = {"indexed": {name: fitted(name, ranks)[2] for name in RULES}}

    if ranks > 1:  # ranks are compared with each other
        results["free"] = {name: fitted(name, ranks, False)[2] for name in RESUMED}
        results["bf16"] = {
            name: fitted(name, ranks, False, precision="bf16-mixed")[2] for name in ROUNDED
        }

    results["odd"] = {name: tested(name, ranks) for name in ODD}
    results["starved"] = {name: starved(name, ranks) for name in STARVED}
    results["diverged"] = diverged(ranks)
    results["plain"] = plain(ranks)

    return results


@cache
def alone():
    """The results of one process."""
    return everything(1)


@cache
def launched():
    """What the script below said on stderr, and what it left; one that hangs does so once."""
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    environment.pop("PL_GLOBAL_SEED", None)  # of another test, which processes would go by

    with TemporaryDirectory() as folder:
        try:
            said = subprocess.run(
                [sys.executable, "-m", "tests.training.processes", folder],
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
                env=environment,
                cwd=Path(__file__).parents[2],
            ).stderr
        except subprocess.TimeoutExpired as error:
            said = str(error)

        files = [Path(folder) / f"rank{rank}.pt" for rank in (0, 1)]
        if all(file.is_file() for file in files):
            return said, [torch.load(file) for file in files]

    return said, []


def two():
    """The results of two processes."""
    said, results = launched()
    assert results, said[-3000:]
    return results


if __name__ == "__main__":
    results = everything(2)
    file = Path(sys.argv[-1]) / f"rank{os.environ['LOCAL_RANK']}.pt"
    torch.save(results, file)
    results["resumed"] = {name: resumed(name, file.parent / name) for name in RESUMED}
    results["moved"] = {move: moved(*move, file.parent / str(move)) for move in ((1, 2), (2, 1))}
    torch.save(results, file)
