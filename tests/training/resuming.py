"""Every rule on a small problem, stopped and resumed: for tests and benchmarks/resume.py.

`python -m tests.training.resuming CASE FOLDER STOP` trains a case with a checkpoint after each
batch, and kills itself by SIGKILL after STOP updates. With STOP = -1 it goes on from
FOLDER/last.ckpt and writes the end of the training to FOLDER/end.pt.
"""

import hashlib
import logging
import os
import signal
import sys
import warnings
from pathlib import Path

import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from gendae.corruption import GaussianNoise, PoissonNoise, SpikeNoise
from gendae.data.augmented import Augmented
from gendae.data.base import SPLITS
from gendae.data.binarised import Binarised
from gendae.data.images import Digits
from gendae.data.labels import PartlyLabelled
from gendae.data.multimodal import FewLabels, Multimodal
from gendae.laws import LearnedGaussian
from gendae.models.architectures import (
    deep_autoencoder,
    deep_classifier,
    denoising_blocks,
    denoising_classifier,
    goodness_classifier,
    joint_autoencoder,
    recurrent_classifier,
    tree_classifier,
    tree_pair,
    with_labels,
)
from gendae.models.stack import Stack
from gendae.models.trees import Quadtree
from gendae.priors.autoencoder import AutoencoderPrior, Learning, Walk
from gendae.priors.denoiser import LevelMLP
from gendae.priors.factorial import FactorialPrior
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.parzen import ParzenPrior
from gendae.registry import register
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
from gendae.rules.difference import InverseLearning
from gendae.rules.differences import DifferenceLoop
from gendae.rules.direct import DirectDifference
from gendae.rules.joint import JointWeights
from gendae.rules.loops import LoopWeights, ShortAndLongLoops
from gendae.rules.missing import Hiding, Inferring
from gendae.rules.rates import Rates
from gendae.rules.transposes import LocalDifference, SignSymmetry

EPOCHS = 2
BATCHES = 4
UPDATES = EPOCHS * BATCHES
QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "accelerator": "cpu",
    "devices": 1,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


@register
class FewDigits(Digits):
    """200 digits to train on, 60 to validate with."""

    def __init__(self, batch_size=50):
        super().__init__(batch_size)

    def read(self):
        splits, shape = super().read()
        numbers = zip(SPLITS, (200, 60, 60), strict=True)
        return {name: splits[name][:n] for name, n in numbers}, shape


def stack(prior=None, sizes=(64, 20, 8), **options):
    return deep_autoencoder(list(sizes), prior=prior, **options)


def network(**options):
    return deep_classifier([64, 12, 10], classes=10, **options)


def learned():
    """A stack whose encoders learn the width of their law."""
    model = stack(GaussianPrior("full", 1.0))
    for pair in model.pairs:
        pair.recognition = LearnedGaussian(pair.f.out_features)

    return model


def bits():
    """A sigmoid belief net under a prior of bits."""
    return stack(FactorialPrior("bernoulli"), units="binary", stochastic=True)


def joint_rule(**options):
    members = {"image": {"sizes": [64, 8]}, "label": {"sizes": [10], "kind": "onehot"}}
    return joint.JointTargetPropRule(joint_autoencoder(members, [12, 6]), **options)


NOISE = GaussianNoise(0.2)
RULES = {
    "em": lambda: variational_em.VariationalEMRule(
        stack(),
        warmup=6,
        prior_codes="inferred",
        corruption=[NOISE, GaussianNoise(0.3, half_life=0.2), SpikeNoise(3)],
    ),
    "stdp": lambda: stdp.STDPRule(stack(), warmup=6, corruption=[NOISE, NOISE, PoissonNoise(3)]),
    "labels": lambda: labelled.LabelledEMRule(
        with_labels(stack()), warmup=6, corruption=[NOISE, NOISE, SpikeNoise(3)]
    ),
    "nudged by labels": lambda: nudged_em.NudgedEMRule(
        with_labels(stack()), warmup=6, corruption=[NOISE, NOISE, SpikeNoise(3)]
    ),
    "kl": lambda: kl.KLRule(learned(), prior_every=3),
    "kl under parzen": lambda: kl.KLRule(
        stack(ParzenPrior(capacity=70), noise=0.2), prior_every=3
    ),
    "kl with a training prior": lambda: kl.KLRule(
        stack(FactorialPrior(), noise=0.3),
        reach="within_layer",
        training_prior=GaussianPrior("full", 1.0),
        prior_every=3,
    ),
    "kl with tied noise": lambda: kl.KLRule(
        stack(ParzenPrior(capacity=70)), tie_noise=True, prior_every=3
    ),
    "wake-sleep": lambda: wake_sleep.WakeSleepRule(bits(), prior_every=3),
    "reweighted wake-sleep": lambda: wake_sleep.ReweightedWakeSleepRule(bits(), prior_every=3),
    "importance weighted": lambda: importance_weighted.ImportanceWeightedRule(
        stack(FactorialPrior(), noise=0.3), prior_every=3
    ),
    "target prop": lambda: targetprop.TargetPropRule(
        stack(), ShortAndLongLoops(warmup=6), [NOISE] * 3, contractive=0.1
    ),
    "target prop in stages": lambda: targetprop.TargetPropRule(
        stack(noise=[None, 0.3]), DifferenceLoop(LocalDifference(every=3), start=2, align=2)
    ),
    "target prop under a prior": lambda: targetprop.TargetPropRule(
        stack(ParzenPrior(capacity=70)),
        ShortAndLongLoops(LoopWeights(model=0.5), top_target="prior"),
        [NOISE] * 3,
        prior_every=3,
    ),
    "target prop under an auto-encoder": lambda: targetprop.TargetPropRule(
        stack(AutoencoderPrior([16], 8, learning=Learning(1), walk=Walk(2))),
        ShortAndLongLoops(top_target="prior"),
        [NOISE] * 3,
        prior_every=3,
    ),
    "single layers by hebb": lambda: single_layer.HebbianRule(stack()),
    "competitive": lambda: single_layer.CompetitiveRule(
        deep_autoencoder([64, 12, 8], ["softmax", "softmax"]), rates=Rates()
    ),
    "back step": lambda: backstep.BackStepRule(stack()),
    "denoising blocks": lambda: blocks.DenoisingBlocksRule(
        denoising_blocks(64, 2, network=LevelMLP(12, 1)), rates=Rates(decline="cosine")
    ),
    "denoising blocks in turn": lambda: blocks.DenoisingBlocksRule(
        denoising_blocks(64, 2, network=LevelMLP(12, 1)), "in turn"
    ),
    "denoising labels": lambda: blocks.DenoisingLabelsRule(
        denoising_classifier([64, 12, 8], blocks=2, network=LevelMLP(12, 1)), NOISE
    ),
    "online": lambda: online.OnlineDeltaRule(
        stack(),
        online.Presentation(ticks=4, blank=2, noise=0.2),
        plasticity=online.DeltaPlasticity([1.0, 3.0]),
        rates=Rates(f=0.1, g=0.1, optimizer="sgd"),
    ),
    "joint": lambda: joint_rule(
        weights=JointWeights(recirculation=0.1),
        hiding=Hiding(walkback=1),
        inferring=Inferring(weight=1.0, confidence=0.2),
    ),
    "difference": lambda: difference.DifferenceTargetPropRule(
        network(stochastic=True), samples=3, inverses=InverseLearning(half_life=0.1, warmup=3)
    ),
    "difference in phases": lambda: difference.DifferenceTargetPropRule(
        network(stochastic=True),
        rates=Rates(optimizer="rmsprop", hold=0.2),
        inverses=InverseLearning(schedule="alternate"),
    ),
    "difference from the output": lambda: difference.DifferenceTargetPropRule(
        network(), inverses=InverseLearning(output=True)
    ),
    "backprop": lambda: backprop.BackpropRule(
        network(), input_corruption=NOISE, rates=Rates(optimizer="sgd", hold=0.5)
    ),
    "straight through": lambda: backprop.StraightThroughRule(network(stochastic=True), samples=2),
    "feedback alignment": lambda: backprop.FeedbackAlignmentRule(
        network(), input_corruption=NOISE
    ),
    "learned feedback": lambda: by_feedback.FeedbackRule(
        network(stochastic=True), LocalDifference(every=3), align=2, samples=2
    ),
    "random signs": lambda: by_feedback.FeedbackRule(network(), SignSymmetry("random")),
    "direct differences": lambda: by_feedback.FeedbackRule(
        network(), DirectDifference(hidden=9), align=2
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
    "generec": lambda: hebbian.GeneRecRule(
        network(), symmetric=False, rates=Rates(optimizer="rmsprop")
    ),
    "reinforce": lambda: perturbation.ReinforceRule(network(stochastic=True), "input"),
    "nodes": lambda: perturbation.NodePerturbationRule(network(), input_corruption=NOISE),
    "weights": lambda: perturbation.WeightPerturbationRule(network(), noise="signs", samples=2),
    "nudged stdp": lambda: nudged_stdp.NudgedSTDPRule(network(), input_corruption=NOISE),
    "equilibrium": lambda: equilibrium.EquilibriumPropagationRule(
        network(), input_corruption=NOISE
    ),
    "forward-forward": lambda: forward_forward.ForwardForwardRule(
        goodness_classifier([64, 12, 8]), input_corruption=NOISE
    ),
    "predictive coding": lambda: predictive_coding.PredictiveCodingRule(
        network(), steps=4, input_corruption=NOISE
    ),
    "hebbian": lambda: hebbian.ContrastiveHebbianRule(
        network(), symmetric=False, input_corruption=NOISE
    ),
}


def data_of(case):
    """Its batches, larger where an epoch goes over them twice: all cases have as many updates."""
    if case == "joint":
        return Multimodal(FewDigits(), ["image", "label"], batch_size=50, labelled=FewLabels(80))

    if case in ("labels", "nudged by labels"):
        return PartlyLabelled(FewDigits(), FewLabels(80), batch_size=50)

    if case == "difference in phases":
        return FewDigits(100)

    if case == "wake-sleep":
        return Augmented(Binarised(FewDigits(), draw=3), shift=1, batch_size=50)

    return FewDigits(50)


def digest(tensor):
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


class Diary(Callback):
    """For each update what it was made of: images, rates, noise that was left, and phase."""

    def __init__(self):
        self.pages = {}

    def on_train_batch_end(self, trainer, rule, outputs, batch, index):
        rates = [group["lr"] for group in rule.optimizers().param_groups]
        moment = rule.moment(index)
        self.pages[trainer.global_step] = (
            index,
            digest(batch[0]),
            rates,
            digest(rule.source_of_noise.generator.get_state()),
            moment.update,
            moment.progress,
            moment.learn,
        )


class Kill(Callback):
    """SIGKILL after an update, once checkpoints are written."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_end(self, trainer, rule):
        self.on_train_batch_start(trainer)


def train(case, seed=1, resume=None, callbacks=(), **options):
    """The end of a training: weights, prior, optimizer, noise, latest codes, counters, diary."""
    seed_everything(seed, verbose=False)
    rule = RULES[case]()
    diary = Diary()
    trainer = Trainer(
        callbacks=[diary, *callbacks],
        enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
        **{**QUIET, "max_epochs": EPOCHS, **options},
    )
    trainer.fit(rule, data_of(case), ckpt_path=resume)

    optimizer = rule.optimizers().state_dict()
    state = {}
    for i, values in optimizer["state"].items():
        state.update({f"{i}.{k}": v for k, v in values.items()})

    return {
        "weights": {k: v.clone() for k, v in rule.state_dict().items()},
        "state": state,
        "groups": optimizer["param_groups"],
        "noise": rule.source_of_noise.generator.get_state(),
        "recent": rule.prior_fit.recent,
        "step": trainer.global_step,
        "epoch": trainer.current_epoch,
        "diary": diary.pages,
    }


def keepers(folder):
    """A checkpoint of every batch, and one of every epoch, after its validation."""
    return [
        ModelCheckpoint(
            folder,
            "batch={step}",
            every_n_train_steps=1,
            save_top_k=-1,
            auto_insert_metric_name=False,
        ),
        ModelCheckpoint(
            folder, "epoch={epoch}", every_n_epochs=1, save_top_k=-1, auto_insert_metric_name=False
        ),
    ]


def differences(whole, resumed):
    """Names of all that is not bit-equal; of the diary, the pages written after resuming."""
    names = []
    for kind in ("weights", "state"):
        for name, value in whole[kind].items():
            if not same(value, resumed[kind].get(name)):
                names.append(f"{kind} {name}")

    names += [k for k in ("groups", "step", "epoch") if whole[k] != resumed[k]]
    names += [k for k in ("noise", "recent") if not same(whole[k], resumed[k])]

    for step, page in resumed["diary"].items():
        if whole["diary"][step] != page:
            names.append(f"update {step}")

    return names


def same(a, b):
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype

    return a is b


def quiet():
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


if __name__ == "__main__":
    quiet()

    name = sys.argv[1]
    place = Path(sys.argv[2])
    stop = int(sys.argv[3])
    keep = ModelCheckpoint(
        place, every_n_train_steps=1, save_last=True, save_top_k=0, enable_version_counter=False
    )
    if stop >= 0:
        train(name, 1, callbacks=[keep, Kill(stop)])

    torch.save(train(name, 99, place / "last.ckpt", [keep]), place / "end.pt")
