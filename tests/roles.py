"""The members of each role: `test_roles.py` runs every test of a role over all of them.

A new member is one line in its role's list: a name, how it is made, and what its batch is made of.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn.functional import one_hot

import gendae
from gendae.data.sources import InMemory
from gendae.layers.activations import ACTIVATIONS
from gendae.models.settings import Settings
from gendae.rules.difference import InverseLearning, Iterations
from gendae.rules.joint import JointWeights
from gendae.rules.loops import LoopWeights
from gendae.rules.missing import Hiding, Inferring
from gendae.rules.rates import Rates
from gendae.rules.targets import Hybrid

ROWS = 6
WIDTH = 8  # of everything that a batch is given to
CLASSES = 3  # a joint x is an image of 5 pixels with one of 3 labels


def rows(kind: str, n: int = ROWS, dtype: torch.dtype = torch.float64, first: int = 0):
    """n rows of one kind of values, (n, WIDTH); fewer rows are the first of more."""
    g = torch.Generator().manual_seed(1)
    real = torch.randn(100, WIDTH, generator=g, dtype=torch.float64)
    labels = torch.randint(CLASSES, (100,), generator=g)
    kinds = {
        "real": real,
        "means": real.tanh(),
        "unit": real.sigmoid(),
        "signs": real.sign(),
        "bits": (real > 0).double(),
        "shares": real.softmax(1),
        "onehot": one_hot(real.argmax(1), WIDTH).double(),
        "joint": torch.cat([real[:, CLASSES:].sigmoid(), one_hot(labels, CLASSES)], 1),
        "mask": real > 0,
        "labels": labels,
        "chains": chains(real),
    }
    values = kinds[kind][first : first + n].clone()
    if values.is_floating_point():
        return values.to(dtype)

    return values


def chains(real):
    """Trees of four nodes or fewer, each the only child of the one before, with an input."""
    nodes = torch.stack([torch.tensor([1.0, 2.0, 3.0, 0.0]).expand(100, 4), real[:, :4]], 2)
    short = torch.arange(100) % 3
    nodes[short == 1, 1, 0] = 0.0
    nodes[short == 1, 2, 0] = 0.0

    return nodes.flatten(1)


@dataclass(frozen=True, eq=False)
class Member:
    """One member of a role.

    takes: kinds of `rows` that a batch is made of.
    draws: names of the calls with random results, where they are not those of the role.
    of_batch: the result for a row depends on the other rows, as the docstring of the member says.
    local: no loss of a rule reaches another layer than its own.
    """

    name: str
    make: Callable[[], object]
    takes: str = "real"
    draws: str | None = None
    of_batch: bool = False
    local: bool = True

    def built(self, dtype: torch.dtype = torch.float64):
        """The object, with the same weights each time and in each type."""
        torch.manual_seed(0)
        thing = self.make()
        if isinstance(thing, nn.Module):
            thing = thing.to(dtype)

        return thing

    def batch(self, n: int = ROWS, dtype: torch.dtype = torch.float64):
        return [rows(kind, n, dtype) for kind in self.takes.split()]


# -- models, fitted and measured --------------------------------------------------------------


def pair(**options):
    return gendae.Pair(gendae.Affine(WIDTH, 4, "tanh"), gendae.Affine(4, WIDTH), **options)


def ready(model, kind):
    x = rows(kind, 30, torch.float32, first=ROWS)
    model.prior.fit(model.encode(x)[-1].detach())
    model.fit_residuals(x)

    return model


def stack(**options):
    return ready(gendae.deep_autoencoder([WIDTH, 6, 4], **options), "unit")


def convolutions():
    small = gendae.conv_autoencoder((1, 2, 4), [3], [4], kernel=2, stride=2, padding=0)
    return ready(small, "unit")


def joint_stack():
    image = {"sizes": [5, 5]}  # the codes of both modalities are as wide as x
    label = {"sizes": [CLASSES], "kind": "onehot"}
    return ready(gendae.joint_autoencoder({"image": image, "label": label}, [4]), "joint")


def tied():
    return gendae.stack_of([gendae.TiedPair(WIDTH, 6), gendae.TiedPair(6, 4)])


def identity_top():
    return stack(noise=0.3, prior=gendae.GaussianPrior("identity", 1.0))


def variational():
    return stack(noise=[None, 0.5], noise_of_x=True, prior=gendae.GaussianPrior("identity", 1.0))


def belief_net():
    return stack(units="binary", stochastic=True, prior=gendae.FactorialPrior("bernoulli"))


def cell(width=2):
    """The maps of a step that reads some values into a state of 3."""
    f = gendae.Affine(3 + width, 3, "tanh")
    return gendae.Cell(f, gendae.Affine(3, 3, "tanh"), gendae.Affine(3, width))


def recurrent(**options):
    return gendae.recurrent_classifier(2, steps=4, state=5, classes=CLASSES, **options)


def tree_cell(width=1, arity=1):
    f = gendae.Affine(3 * arity + width, 3, "tanh")
    g = gendae.Affine(3, 3 * arity, "tanh")
    return gendae.TreeCell(f, g, gendae.Affine(3, width), arity)


TREES = gendae.TreeRows(4, arity=1, width=1)
PATCHES = gendae.Quadtree([2, 4], patch=1)


def trees():
    return gendae.tree_classifier(TREES, state=5, classes=CLASSES)


def tree_stack():
    return ready(gendae.Stack(gendae.tree_pair(PATCHES, state=5)), "unit")


def quadtrees():
    return gendae.tree_classifier(PATCHES, state=5, classes=CLASSES)


def labelled_stack(**options):
    model = gendae.deep_autoencoder([WIDTH, 6, 4], **options)
    return ready(gendae.with_labels(model, CLASSES), "unit")


BANDS = {"network": gendae.LevelMLP(6, 1, 2), "blocks": 2}


def bands():
    return ready(gendae.denoising_blocks(WIDTH, **BANDS), "unit")


def by_goodness():
    return gendae.goodness_classifier([WIDTH, 5, 4], CLASSES)


def label_blocks(**options):
    return gendae.denoising_classifier([WIDTH, 5, 4], CLASSES, steps=2, **BANDS, **options)


def classifier(**options):
    return gendae.deep_classifier([WIDTH, 6, 6], classes=CLASSES, **options)


def lenet():
    return gendae.lenet((1, 2, 4), [2], 1, [0], sizes=[6], classes=CLASSES, activation="tanh")


def fitted(cls, *arguments, codes="real", **options):
    prior = cls(*arguments, **options)
    prior.prepare(WIDTH)
    return fit(prior, rows(codes, 60, torch.float32, first=ROWS))


def fit(prior, codes):
    """A prior fitted on codes, of p(h | c) on one of ten classes for each."""
    if prior.condition is None:
        return prior.fit(codes)
    return prior.fit(codes, torch.arange(len(codes)) % 10)


# -- the roles -------------------------------------------------------------------------------

CORRUPTIONS = [
    Member("GaussianNoise", lambda: gendae.GaussianNoise(0.5, decay=0.5)),
    Member("half-life", lambda: gendae.GaussianNoise(0.5, half_life=0.1)),
    Member("SpikeNoise", lambda: gendae.SpikeNoise(2), "unit"),
    Member("PoissonNoise", lambda: gendae.PoissonNoise(2), "unit"),
    Member("RelativeNoise", lambda: gendae.RelativeNoise(0.2, 0.5), of_batch=True),
    Member("FlipNoise", lambda: gendae.FlipNoise(0.4), "signs"),
    Member("FlipNoise binary", lambda: gendae.FlipNoise(0.4, "binary"), "bits"),
    Member("MaskingNoise", lambda: gendae.MaskingNoise(0.4, value=-0.5, decay=0.5)),
    Member("hidden units", lambda: gendae.MaskingNoise(count=3)),
    Member("SaltAndPepperNoise", lambda: gendae.SaltAndPepperNoise(0.5, -1.0, decay=0.5)),
    Member("NeighbourNoise", lambda: gendae.NeighbourNoise(0.3), of_batch=True),
    Member("EachModality", lambda: gendae.EachModality([None, SPIKES], [5, 3]), "unit"),
]

LEARNED = partial(gendae.LearnedGaussian, WIDTH)
LAWS = [  # values, means, and the input of the layer
    Member("Gaussian", lambda: gendae.Gaussian(0.7), "real real real"),
    Member("LearnedGaussian", lambda: LEARNED(given=WIDTH, hidden=[3]), "real means real"),
    Member("one sigma", lambda: LEARNED(0.2, "layer"), "real means real"),
    Member("Bernoulli", gendae.Bernoulli, "bits unit real"),
    Member("Categorical", gendae.Categorical, "onehot shares real"),
    Member("Discrete", lambda: SIGNS, "signs means real", "sample transmit"),
    Member(
        "Laws", lambda: gendae.Laws([FIVE(), SIGNS], [5, 3]), "signs means real", "sample transmit"
    ),
]
SIGNS = gendae.Discrete("sign", stochastic=True)
FIVE = partial(gendae.LearnedGaussian, 5)


@gendae.register
class Edges(nn.Module):
    """A module of one's own, over images of 2 x 4 pixels."""

    def __init__(self, channels=3):
        super().__init__()
        self.channels = channels
        self.filters = nn.Conv2d(1, channels, 2)

    def forward(self, images):
        return self.filters(images).tanh()


LAYERS = [
    *(Member(f"Affine {s}", partial(gendae.Affine, WIDTH, 4, s)) for s in ACTIVATIONS),
    Member("Affine bits", lambda: gendae.Affine(WIDTH, 4, "tanh", receives="bits")),
    Member("MLP", lambda: gendae.MLP(WIDTH, [5], 4, "tanh", "softplus")),
    Member("Conv", lambda: gendae.Conv((1, 2, 4), 2, 2, 2, 0, "tanh")),
    Member("ConvTranspose", lambda: gendae.ConvTranspose((4, 1, 2), 1, 2, 2, 0, "sigmoid")),
    Member("Pool", lambda: gendae.Pool((1, 2, 4), 2, "mean")),
    Member("Unpool", lambda: gendae.Unpool((2, 2, 2), 3)),
    Member("Layers", lambda: gendae.Layers([gendae.Pool((1, 2, 4)), gendae.Affine(2, 4)])),
    Member("Heads", lambda: gendae.Heads(gendae.Affine(WIDTH, 4), ["tanh", "softmax"], [1, 3])),
    Member("Residual", lambda: gendae.Residual(gendae.Affine(WIDTH, 4, "tanh"))),
    Member("LSTMReader", lambda: gendae.LSTMReader(width=2, steps=WIDTH // 2, state=4)),
    Member("EveryStep", lambda: gendae.EveryStep(WIDTH, 4, steps=2)),
    Member("Band", lambda: gendae.Band(WIDTH, network=BANDS["network"])),
    Member(
        "FillingBand",
        lambda: gendae.FillingBand(gendae.Filling((2, 4)), network=BANDS["network"]),
    ),
    Member("Unchanged", lambda: gendae.Unchanged(WIDTH, 4)),
    Member("LabelBlock", lambda: label_blocks().pairs[0].f),
    Member("LabelLogits", lambda: gendae.LabelLogits(WIDTH, 3, guesses=2)),
    Member("GoodnessLayer", lambda: gendae.GoodnessLayer(WIDTH, 5, 3)),
    Member("GoodnessLayer above", lambda: gendae.GoodnessLayer(3, 5, 2, 1, "tanh")),
    Member("GoodnessLogits", lambda: gendae.GoodnessLogits(WIDTH, 3, layers=2)),
    Member("Zeros", lambda: gendae.Zeros(WIDTH, 4)),
    Member("Wrapped", lambda: gendae.Wrapped(Edges(), (1, 2, 4), "tanh")),
    Member("InvertibleAffine", lambda: gendae.InvertibleAffine(WIDTH)),
    Member("InvertibleAffine svd", lambda: gendae.InvertibleAffine(WIDTH, "svd", "sigmoid")),
]

PAIRS = [
    Member("Pair", pair),
    Member("drawn codes", lambda: pair(recognition=SIGNS), draws="encode decode"),
    Member("TiedPair", lambda: gendae.TiedPair(WIDTH, 4)),
    Member("InvertiblePair", lambda: gendae.InvertiblePair(WIDTH)),
    Member("InvertiblePair svd", lambda: gendae.InvertiblePair(WIDTH, "svd")),
    Member("RecurrentPair", lambda: gendae.RecurrentPair(cell(), steps=4)),
    Member("RecurrentPair masked", lambda: gendae.RecurrentPair(cell(1), steps=4, masked=True)),
    Member("RecurrentPair every step", lambda: gendae.RecurrentPair(cell(), 4, every_step=True)),
    Member("TreePair", lambda: gendae.TreePair(tree_cell(), TREES), "chains"),
    Member("TreePair quarters", lambda: gendae.TreePair(tree_cell(1, 4), PATCHES)),
    Member("OptimizingPair", lambda: gendae.OptimizingPair(pair().f, pair().g, steps=3)),
]

STACKS = [
    Member("Stack", stack, "unit"),
    Member("Stack of MLPs", lambda: stack(hidden_f=[5], hidden_g=[5]), "unit"),
    Member("Stack of convolutions", convolutions, "unit"),
    Member("Stack with noise", lambda: stack(noise=0.3, noise_of_x=True), "unit"),
    Member("JointStack", joint_stack, "joint"),
    Member("LabelledStack", labelled_stack, "unit"),
]
BAND_STACKS = [  # whose encoders have nothing to learn
    Member("stack of bands", bands, "unit"),
]
CLASSIFIERS = [
    Member("Classifier", classifier, "unit"),
    Member("LeNet", lenet, "unit"),
    Member("drawn units", partial(classifier, stochastic=True), "unit", "logits log_p"),
    Member("blocks of labels", label_blocks, "unit"),
    Member("goodness", by_goodness, "unit"),
    Member("several guesses", partial(label_blocks, guesses=2), "unit"),
]

FACTORIAL = partial(fitted, gendae.FactorialPrior)
WINDOWS = partial(fitted, gendae.ParzenPrior)
DENOISING = {
    "network": gendae.LevelMLP(6, 1, 2),
    "learning": gendae.AveragedLearning(epochs=1),
    "descent": gendae.HeunDescent(3),
    "flow": gendae.Flow(3),
}
DENOISED = partial(fitted, gendae.DenoisingPrior, **DENOISING)
CONDITIONAL = partial(fitted, gendae.ConditionalDenoisingPrior, **DENOISING)
DENSE = [
    Member("GaussianPrior", partial(fitted, gendae.GaussianPrior)),
    Member("GaussianPrior full", partial(fitted, gendae.GaussianPrior, "full")),
    Member("GaussianPrior identity", partial(fitted, gendae.GaussianPrior, "identity", 1.0)),
    Member("LinearAutoencoderPrior", partial(fitted, gendae.LinearAutoencoderPrior, 1.0)),
    Member("laplace", lambda: FACTORIAL("laplace")),
    Member("logistic", lambda: FACTORIAL("logistic")),
    Member("bernoulli", lambda: FACTORIAL("bernoulli", "probability", codes="unit"), "unit"),
    Member("sign", lambda: FACTORIAL("sign", codes="signs"), "signs"),
    Member("categorical", lambda: FACTORIAL("categorical", codes="onehot"), "onehot"),
    Member("ParzenPrior", WINDOWS),
    Member("ParzenPrior held out", lambda: WINDOWS(held_out=gendae.HeldOut(0.2, bonus=0.5))),
    Member(
        "ManifoldParzenPrior",
        partial(fitted, gendae.ManifoldParzenPrior, 0.5, neighbours=4, components=2),
    ),
    Member("DenoisingPrior", DENOISED),
    Member("ConditionalDenoisingPrior", CONDITIONAL),
    Member("DenoisingPrior blocks", partial(DENOISED, coordinates="directions", blocks=2)),
]
BRIEF = {"learning": gendae.Learning(epochs=1), "walk": gendae.Walk(steps=2)}
DENOISER = partial(fitted, gendae.AutoencoderPrior, [6], 5, **BRIEF)
NEAREST = {"criterion": gendae.NearestNeighbour()}
CHAINED = [
    Member("AutoencoderPrior", DENOISER),
    Member("AutoencoderPrior nearest", partial(DENOISER, hidden_noise=0.5, **NEAREST)),
]
PRIORS = [*DENSE, *CHAINED]

SPIKES = gendae.SpikeNoise(2)
SAMPLERS = [
    Member("AncestralSampler", gendae.AncestralSampler),
    Member("AncestralSampler noise", lambda: gendae.AncestralSampler(1.0)),
    Member("GenerateSampler", lambda: gendae.GenerateSampler(2, gendae.GradientInference(2))),
    Member("LatentChainSampler", lambda: gendae.LatentChainSampler(2, corruption=SPIKES)),
    Member("JointChainSampler", lambda: gendae.JointChainSampler(2, [SPIKES] * 3)),
    Member("LevelSampler", lambda: gendae.LevelSampler(1, 2, residual=1.0)),
]

LABEL_SAMPLERS = [
    Member("LabelledSampler", lambda: gendae.LabelledSampler(1, 2, candidates=3)),
]

BAND_SAMPLERS = [
    Member("DescentSampler", lambda: gendae.DescentSampler(gendae.HeunDescent(3))),
]

BAND_INPAINTERS = [
    Member("DescentInpainter", lambda: gendae.DescentInpainter(gendae.HeunDescent(3), chains=2)),
]

LANGEVIN = partial(gendae.TargetPropInference, 3, temperature=0.1)
GRADIENT = partial(gendae.GradientInference, 3, q_weight=0.1, every_q=True, use_prior=True)
BY_DIFFERENCES = partial(gendae.TargetPropInference, 3, alpha=0.3, difference=True)
INFERENCES = [  # x, and which of it is observed
    Member("TargetPropInference", lambda: gendae.TargetPropInference(3), "unit mask"),
    Member("Langevin", LANGEVIN, "unit mask", "infer masked"),
    Member("under the prior", lambda: LANGEVIN(use_prior=True), "unit mask", "infer masked"),
    Member("by differences", BY_DIFFERENCES, "unit mask"),
    Member("GradientInference", GRADIENT, "unit mask"),
    Member(
        "LangevinInference",
        partial(gendae.LangevinInference, 3, adapt=1),
        "unit mask",
        "infer masked",
    ),
]

COMPLETERS = [
    Member("map", lambda: gendae.Completer.map(3, tolerance=0.0), "unit mask", "complete"),
    Member("mcmc", lambda: gendae.Completer.mcmc(3), "unit mask"),
    Member("annealed", lambda: gendae.Completer.annealed(4), "unit mask", "complete"),
    Member("from prior", lambda: gendae.Completer.mcmc(2, begin="prior"), "unit mask"),
    Member("own noise", lambda: gendae.Completer.mcmc(2, corruption=SPIKES), "unit mask"),
    Member("Inpainter", lambda: gendae.Inpainter(2, chains=2), "unit mask"),
    Member("encode_decode", lambda: gendae.Inpainter.encode_decode(2, 2), "unit mask"),
]

LOOPS = LoopWeights(model=0.5)
PRINTED = gendae.ShortAndLongLoops(LOOPS, top_target="prior")
ALL_TERMS = {"loop": PRINTED, "contractive": 0.1, "sparsity": 0.1}


def around(feedback=None, **options):
    """The loop of differences, without a start."""
    return {"loop": gendae.DifferenceLoop(feedback, start=0, **options)}


ALL_JOINT_TERMS = {
    "weights": JointWeights(recirculation=0.5, short=0.5),
    "hiding": Hiding(walkback=1),
    "hybrid": Hybrid(joint_weight=0.5),
    "inferring": Inferring(weight=0.5),
}
INFERRED = {"decoder_corruption": [gendae.GaussianNoise(0.1)] * 2, "prior_codes": "inferred"}
PULLED = gendae.TargetPropInference(3, temperature=0.1, use_prior=True)
ROUNDS = Iterations(rounds=3, reconstruct=0.5)
NOISY = {"samples": 3, "input_corruption": gendae.GaussianNoise(0.1)}


def rule(name, of, takes="unit", variant="", local=True, **options):
    """A rule over what `of` makes, with options of its own: loops hold what they learn."""
    make = getattr(gendae, name)
    return Member(name + variant, lambda: make(of(), **deepcopy(options)), takes, local=local)


def competing():
    """A stack of two layers whose units compete."""
    return ready(gendae.deep_autoencoder([WIDTH, 6, 4], ["softmax", "softmax"]), "unit")


def few_classes():
    """A stack whose top has a unit for each class."""
    return ready(gendae.deep_autoencoder([WIDTH, 6, CLASSES]), "unit")


TRANSPOSE = gendae.Telling("transpose")
TOLD = gendae.Telling(short=0.5, long=0.5)
STDP = gendae.TemporalPlasticity()
TWO_TAUS = gendae.DeltaPlasticity([1.0, 3.0], prediction=0.5)
SHOWN = gendae.Presentation(ticks=4, blank=2, noise=0.2)
IDENTITY = gendae.GaussianPrior("identity", 1.0)
DRAWN = partial(classifier, stochastic=True)
BITS = partial(classifier, bits=[1])
TELLER = partial(gendae.recurrent_autoencoder, 2, steps=4, state=5)
RESIDUAL = partial(recurrent, scale=0.1)
CONVOLVED = partial(gendae.lenet, (1, 2, 4), [3], 3, [1], "max", [6], CLASSES)
WITHOUT_DERIVATIVE = {"feedback": gendae.LocalDifference(derivative=False), "samples": 3}
RECONSTRUCTION = gendae.DifferenceReconstruction(0.2, True, tracks=True, rows=4)
BY_INPUT = {"baseline": "input"}
OF_OUTPUT = gendae.InverseLearning(output=True)
EXAMPLES = "unit labels"
RULES = [
    rule("VariationalEMRule", stack),
    rule("VariationalEMRule", stack, variant=" inferred", **INFERRED),
    rule("VariationalEMRule", stack, variant=" under the prior", inference=PULLED),
    rule("STDPRule", stack),
    rule("STDPRule", stack, variant=" all", source="all", slope=True, inference=LANGEVIN()),
    rule("LabelledEMRule", labelled_stack, EXAMPLES),
    rule("LabelledEMRule", labelled_stack, EXAMPLES, " by gradients", inference=GRADIENT()),
    rule("NudgedEMRule", labelled_stack, EXAMPLES, inference=BY_DIFFERENCES()),
    rule("TargetPropRule", stack),
    rule("TargetPropRule", stack, variant=" all terms", **ALL_TERMS),
    rule("TargetPropRule", lambda: stack(units="sign"), variant=" signs"),
    rule("TargetPropRule", stack, variant=" partners", **around(gendae.Partners())),
    rule("TargetPropRule", stack, variant=" inverses", **around(gendae.Inverses())),
    rule("TargetPropRule", stack, variant=" exact", **around(gendae.Exact(), pull="prior")),
    rule("TargetPropRule", stack, variant=" pairs", loop=gendae.PairLoops()),
    rule("TargetPropRule", variational, variant=" drawn", **around(prior_weight=1.0)),
    rule("TargetPropRule", TELLER, variant=" in time", loop=gendae.RecurrentLoop(every=2)),
    rule("BackStepRule", tied),
    rule("HebbianRule", stack),
    rule("CompetitiveRule", competing),
    rule("OnlineDeltaRule", stack),
    rule("OnlineDeltaRule", stack, variant=" noisy", presentation=SHOWN, plasticity=TWO_TAUS),
    rule("OnlineDeltaRule", few_classes, EXAMPLES, " labels", labels=True, every_tick=True),
    rule("OnlineDeltaRule", stack, variant=" stdp", plasticity=STDP),
    rule("KLRule", identity_top, local=False),
    rule("KLRule", identity_top, variant=" within_layer", local=False, reach="within_layer"),
    rule("KLRule", stack, variant=" training prior", local=False, training_prior=IDENTITY),
    rule("WakeSleepRule", identity_top),
    rule("WakeSleepRule", belief_net, variant=" bits"),
    rule("ReweightedWakeSleepRule", belief_net),
    rule("ReweightedWakeSleepRule", identity_top, variant=" awake", samples=2, sleep=0.0),
    rule("ImportanceWeightedRule", identity_top, local=False),
    rule("JointTargetPropRule", joint_stack, "joint"),
    rule("JointTargetPropRule", joint_stack, "joint", " all terms", **ALL_JOINT_TERMS),
    rule("DenoisingBlocksRule", bands),
    rule("DenoisingBlocksRule", bands, variant=" in turn", schedule="in turn"),
    rule("DenoisingLabelsRule", label_blocks, EXAMPLES),
    rule("BackpropRule", classifier, EXAMPLES, local=False),
    rule("StraightThroughRule", DRAWN, EXAMPLES, local=False),
    rule("FeedbackAlignmentRule", classifier, EXAMPLES),
    rule("FeedbackRule", classifier, EXAMPLES, align=3),
    rule("FeedbackRule", CONVOLVED, EXAMPLES, " convolved"),
    rule("FeedbackRule", DRAWN, EXAMPLES, " drawn", **WITHOUT_DERIVATIVE),
    rule("FeedbackRule", BITS, EXAMPLES, " mirror", feedback=gendae.WeightMirror()),
    rule("FeedbackRule", classifier, EXAMPLES, " partners", feedback=gendae.Partners()),
    rule("FeedbackRule", CONVOLVED, EXAMPLES, " inverses", feedback=gendae.Inverses()),
    rule("FeedbackRule", CONVOLVED, EXAMPLES, " signs", feedback=gendae.SignSymmetry("random")),
    rule("FeedbackRule", classifier, EXAMPLES, " direct", feedback=gendae.Direct()),
    rule("FeedbackRule", classifier, EXAMPLES, " DRL", feedback=RECONSTRUCTION),
    rule("FeedbackRule", CONVOLVED, EXAMPLES, " DDTP", feedback=gendae.DirectDifference(rows=4)),
    rule(
        "FeedbackRule", classifier, EXAMPLES, " DDTP-RHL", feedback=gendae.DirectDifference(0.1, 9)
    ),
    rule("FeedbackRule", classifier, EXAMPLES, " fixed", feedback=gendae.FixedWeights()),
    rule("RecurrentTargetPropRule", recurrent, EXAMPLES),
    rule("RecurrentTargetPropRule", RESIDUAL, EXAMPLES, " transpose", learns="transpose"),
    rule("RecurrentTargetPropRule", partial(recurrent, bits=True), EXAMPLES, " bits"),
    rule("RegularizedInversionRule", recurrent, EXAMPLES),
    rule("TransposeFeedbackRule", recurrent, EXAMPLES),
    rule("TransposeFeedbackRule", RESIDUAL, EXAMPLES, " residual"),
    rule("TruncatedBackpropRule", recurrent, EXAMPLES, local=False, horizon=2),
    rule("TreeTargetPropRule", trees, "chains labels"),
    rule("TreeTargetPropRule", quadtrees, EXAMPLES, " loops", difference=False, telling=TOLD),
    rule("TreeTargetPropRule", trees, "chains labels", " transpose", telling=TRANSPOSE),
    rule("TargetPropRule", tree_stack, variant=" trees", loop=gendae.TreeLoop()),
    rule("DeltaRule", classifier, EXAMPLES),
    rule("DeltaRule", DRAWN, EXAMPLES, " drawn", units="sigmoid", samples=3),
    rule("GeneRecRule", classifier, EXAMPLES),
    rule("ContrastiveHebbianRule", classifier, EXAMPLES),
    rule("NudgedSTDPRule", classifier, EXAMPLES),
    rule("ReinforceRule", DRAWN, EXAMPLES),
    rule("ReinforceRule", classifier, EXAMPLES, " others", baseline="others", samples=3),
    rule("ReinforceRule", DRAWN, EXAMPLES, " input", **BY_INPUT),
    rule("NodePerturbationRule", classifier, EXAMPLES),
    rule("NodePerturbationRule", BITS, EXAMPLES, " bits", sigma=0.3, noise="signs"),
    rule("WeightPerturbationRule", CONVOLVED, EXAMPLES, central=True, samples=2),
    rule("EquilibriumPropagationRule", classifier, EXAMPLES),
    rule("EquilibriumPropagationRule", classifier, EXAMPLES, " one", nudge="one"),
    rule("ForwardForwardRule", by_goodness, EXAMPLES),
    rule("ForwardForwardRule", by_goodness, EXAMPLES, " hardest", negatives="hardest"),
    rule("PredictiveCodingRule", classifier, EXAMPLES, steps=4),
    rule("PredictiveCodingRule", CONVOLVED, EXAMPLES, " fixed", steps=4, fixed_prediction=True),
    rule("DifferenceTargetPropRule", classifier, EXAMPLES),
    rule("DifferenceTargetPropRule", DRAWN, EXAMPLES, " drawn", **NOISY),
    rule("DifferenceTargetPropRule", classifier, EXAMPLES, " rounds", iterations=ROUNDS),
    rule("DifferenceTargetPropRule", BITS, EXAMPLES, " plain", difference=False),
    rule("DifferenceTargetPropRule", DRAWN, EXAMPLES, " output", inverses=OF_OUTPUT, samples=2),
]

FILES = {"a": "numbers.npy", "b": "images.npy"}  # in the current folder
PARTS = ["image", "label"]
FEW = gendae.FewLabels(50)


def spread_labels():
    few = gendae.PartlyLabelled(gendae.Digits(), FEW)
    return gendae.SpreadLabels(few, "digits-variational-em", share=0.5)


DATA = [
    Member("Digits", lambda: gendae.Digits(50, 3)),
    Member("LongDependencies", lambda: gendae.LongDependencies("temporal-order", 10, 50)),
    Member("LongDependencies adding", lambda: gendae.LongDependencies("adding", 10, 50)),
    Member("ImageSequences", lambda: gendae.ImageSequences(gendae.Digits(), "row", 4, n=50)),
    Member("Sequences", lambda: gendae.Sequences("walks.npz", steps=5, standardise=True)),
    Member("Characters", lambda: gendae.Characters("song.txt", steps=5)),
    Member("ListOps", lambda: gendae.ListOps([1, 2], 50)),
    Member("StandardLibrary", lambda: gendae.StandardLibrary(4, 20)),
    Member("Toys2D", lambda: gendae.Toys2D("gaussians", 200, noise=0.2, batch_size=50)),
    Member("Images", lambda: gendae.Images("images.npy", [4, 4], batch_size=5, seed=3)),
    Member("Shards", lambda: gendae.Shards("images.npy", batch_size=5)),
    Member("Arrays", lambda: gendae.Arrays(FILES, batch_size=5)),
    Member("Augmented", lambda: gendae.Augmented(gendae.Digits(), False, 2, batch_size=5)),
    Member("Binarised", lambda: gendae.Binarised(gendae.Digits(), 3, batch_size=5)),
    Member("Patches", lambda: gendae.Patches(size=8, counts=[50, 5, 5], epsilon=0.1)),
    Member("PartlyLabelled", lambda: gendae.PartlyLabelled(gendae.Digits(), FEW)),
    Member("SpreadLabels", spread_labels),
    Member("Multimodal", lambda: gendae.Multimodal(gendae.Digits(), PARTS, labelled=FEW)),
]

RATES = partial(Rates, [0.1, 0.2], hold=0.5, clip=1.0)
PARTS_OF_PRIORS = [
    *BRIEF.values(),
    *NEAREST.values(),
    gendae.Reconstruction(),
    gendae.HeldOut(0.2),
    gendae.LevelMLP(6, 1, 2),
    gendae.LevelConv((1, 2, 4), 3, 1, 1, 2),
    gendae.Filling((2, 4), 0.2, relative=True),
    gendae.GatedConv((1, 2, 4), 3, 1, 1, 2),
    gendae.Condition(3, dropout=0.2),
    gendae.AveragedLearning(2, seconds=5.0),
    gendae.LogNormalLevels(0.1, 1.2),
    gendae.LogUniformLevels(0.1, 10.0),
    gendae.HeunDescent(5, churn=3.0),
    gendae.AncestralDescent(5, stop=0.1),
    gendae.LangevinDescent(5, rounds=2),
    gendae.Flow(5, solver="adaptive"),
]
OTHERS = [  # parts of models and rules, and what needs files that are not everywhere
    Member("Settings", lambda: Settings(gendae.AncestralSampler(), samples=5)),
    Member("Settling", lambda: gendae.Settling(0.3, 2, closed=True)),
    Member("Rates", RATES),
    Member("Rates of classes", lambda: RATES(optimizer={"class_path": "torch.optim.NAdam"})),
    Member("Cell", cell),
    Member("TreeCell", tree_cell),
    Member("TreeRows", lambda: TREES),
    Member("Quadtree", lambda: PATCHES),
    Member("TreeLoop", gendae.TreeLoop),
    Member("Telling", lambda: TOLD),
    Member("Presentation", lambda: SHOWN),
    Member("DeltaPlasticity", lambda: TWO_TAUS),
    Member("TemporalPlasticity", lambda: STDP),
    Member("LoopWeights", lambda: LOOPS),
    Member("ShortAndLongLoops", lambda: PRINTED),
    Member("PairLoops", gendae.PairLoops),
    Member("RecurrentLoop", lambda: gendae.RecurrentLoop(every=3, horizon=2, difference=False)),
    Member(
        "DifferenceLoop",
        lambda: gendae.DifferenceLoop(gendae.Exact(), prior_weight=0.5, pull="prior"),
    ),
    Member("Exact", gendae.Exact),
    Member("Partners", lambda: gendae.Partners(0.5)),
    Member("Inverses", lambda: gendae.Inverses(0.2)),
    Member("LocalDifference", lambda: gendae.LocalDifference(False, False, 0.2, 5, 3)),
    Member("WeightMirror", lambda: gendae.WeightMirror(True, False, 0.2, 5, 3)),
    Member("DifferenceReconstruction", lambda: RECONSTRUCTION),
    Member("FixedWeights", gendae.FixedWeights),
    Member("Direct", lambda: gendae.Direct(0.5)),
    Member("DirectDifference", lambda: gendae.DirectDifference(0.2, hidden=5)),
    Member("Random", lambda: gendae.Random(0.5, derivative=False, tracks=True)),
    Member("SignSymmetry", lambda: gendae.SignSymmetry("fixed", derivative=False)),
    *(Member(type(part).__name__, lambda part=part: part) for part in ALL_JOINT_TERMS.values()),
    Member("InverseLearning", lambda: InverseLearning([0.3, 0.1], half_life=0.2, warmup=4)),
    Member("Iterations", lambda: ROUNDS),
    *(Member(type(part).__name__, lambda part=part: part) for part in PARTS_OF_PRIORS),
    Member("FewLabels", lambda: FEW),
    Member("InMemory", lambda: InMemory("0" * 64, [5, 2, 2])),
    Member("Annealing", lambda: gendae.Annealing(2.0, 0.1, 0.5)),
    Member("AnnealedInpainter", lambda: gendae.AnnealedInpainter(2, 100, guide="gradient")),
    Member("Modality", lambda: gendae.Modality(WIDTH, "pixels", [pair()])),
    Member("Junction", lambda: gendae.Junction(gendae.Affine(9, 5), gendae.Affine(5, 7), SIGNS)),
    Member("FeatureClassifier", lambda: gendae.FeatureClassifier((8, 8), (2, 3), 5)),
    Member("MNIST", lambda: gendae.MNIST("data", 3, download=False)),
    Member("CIFAR10", lambda: gendae.CIFAR10("data", 3)),
    Member("FashionMNIST", lambda: gendae.FashionMNIST("data", 3, download=False)),
]

EVERYTHING = [
    *(*CORRUPTIONS, *LAWS, *LAYERS, *PAIRS, *STACKS, *BAND_STACKS, *CLASSIFIERS, *PRIORS),
    *(
        *SAMPLERS,
        *LABEL_SAMPLERS,
        *BAND_SAMPLERS,
        *BAND_INPAINTERS,
        *INFERENCES,
        *COMPLETERS,
        *RULES,
        *DATA,
        *OTHERS,
    ),
]
