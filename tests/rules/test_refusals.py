"""What rules refuse: arguments, stacks and batches, each in a line that says what is wrong."""

import math
import re
from functools import partial

import pytest
import torch

import gendae
from gendae.completion.inpainting import Inpainter
from gendae.corruption import GaussianNoise
from gendae.data.images import Digits
from gendae.inference import GradientInference
from gendae.laws import Discrete, Gaussian, Laws, LearnedGaussian
from gendae.layers.affine import Affine
from gendae.layers.mlp import MLP
from gendae.layers.optimized import OptimizingPair
from gendae.layers.pair import Pair, TiedPair
from gendae.models.architectures import deep_autoencoder, joint_autoencoder
from gendae.models.classifier import Classifier
from gendae.models.joint import JointStack
from gendae.models.modalities import Junction
from gendae.models.settings import Settings
from gendae.models.stack import Stack
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.parzen import ParzenPrior
from gendae.registry import build
from gendae.rules import credit
from gendae.rules.backprop import BackpropRule, FeedbackAlignmentRule
from gendae.rules.backstep import BackStepRule
from gendae.rules.base import Rule
from gendae.rules.difference import DifferenceTargetPropRule
from gendae.rules.differences import DifferenceLoop
from gendae.rules.equilibrium import EquilibriumPropagationRule
from gendae.rules.feedback import Exact, Feedback, Partners
from gendae.rules.importance_weighted import ImportanceWeightedRule
from gendae.rules.joint import JointTargetPropRule, JointWeights
from gendae.rules.kl import KLRule
from gendae.rules.loops import LoopWeights, PairLoops, ShortAndLongLoops
from gendae.rules.predictive_coding import PredictiveCodingRule
from gendae.rules.rates import Rates
from gendae.rules.targetprop import TargetPropRule
from gendae.rules.transposes import LocalDifference
from gendae.rules.variational_em import VariationalEMRule
from gendae.rules.wake_sleep import ReweightedWakeSleepRule, WakeSleepRule
from gendae.sampling.samplers import GenerateSampler, LatentChainSampler
from gendae.training.callbacks import CreditMonitor
from tests.conftest import small_stack
from tests.rules.test_base import trainer
from tests.rules.test_joint import rule_of, stack_of
from tests.rules.test_supervised import BASELINES, TWO_PHASES, batch, network

LOUD = GaussianNoise(0.1)


class Unlearned(Feedback):
    """Feedback with weights that no loss trains."""

    def layer_for(self, link):
        return torch.nn.Linear(link.layer.out_features, link.layer.in_features)


class Silent(Rule):
    def losses(self, batch, moment=None):
        return {}


def made(cls, stack, **options):
    """A rule over a stack, once it is called."""
    return lambda: cls(stack(), **options)


def part(argument, cls, **options):
    """An argument as a description: it is built, and refused, by the rule or before."""
    return {argument: {"type": cls, **options}}


# -- rates, which are the same for all rules -----------------------------------------------------

OF_RATES = [
    ({"g": -1.0}, "rates.g=-1.0: a number >= 0"),
    ({"f": [0.1, math.nan]}, "rates.f=nan"),
    ({"decay_f": [-0.1, 0.1]}, "rates.decay_f=-0.1"),
    ({"decay_g": math.inf}, "rates.decay_g=inf"),
    ({"hold": 2.0}, "rates.hold=2.0: a fraction"),
    ({"hold": math.nan}, "rates.hold=nan"),
    ({"clip": 0.0}, "rates.clip=0.0: a number > 0"),
    ({"clip": -1.0}, "rates.clip=-1.0"),
    ({"optimizer": "lbfgs"}, "rates.optimizer='lbfgs' is unknown; accepted: adam, rmsprop, sgd"),
    ({"optimizer": "torch.optim.Nope"}, "'torch.optim.Nope' cannot be imported"),
    ({"optimizer": "no.such.Thing"}, "'no.such.Thing' cannot be imported"),
    ({"optimizer": "torch.nn.Linear"}, "is no subclass of torch.optim.Optimizer"),
    ({"optimizer": "math.cos"}, "is no subclass of torch.optim.Optimizer"),
    ({"optimizer": {"init_args": {}}}, "class_path, and init_args where needed"),
    ({"decline": "steps"}, "rates.decline='steps' is unknown; accepted: linear, cosine, const"),
    ({"decline": "math.nope"}, "'math.nope' cannot be imported"),
    ({"decline": "math.pi"}, "rates.decline='math.pi' is no function"),
]


def fit_clipped():
    """Lightning's clipping is over all layers."""
    rule = VariationalEMRule(deep_autoencoder([64, 8]))
    trainer(gradient_clip_val=0.5).fit(rule, Digits())


# -- rules over a stack --------------------------------------------------------------------------

OF_EM = [
    ({"rates": Rates(f=[0.1])}, "rates.f has 1 entries.* the 3 layers"),
    ({"rates": Rates(decay_g=[0.1] * 4)}, "rates.decay_g has 4 entries.* the 3 layers"),
    ({"corruption": [LOUD]}, "4 representations"),
    ({"decoder_corruption": [LOUD]}, "3 decoders"),
    ({"prior_codes": "both"}, "feedforward, inferred"),
    ({"warmup": -1}, "warmup=-1"),
]
OF_BACK_STEPS = [
    ({"corruption": [LOUD]}, "corruption has 1 entries"),
    ({"rates": Rates(f=[0.1] * 2)}, "rates.f has 2 entries"),
]
OF_TARGET_PROP = [
    *(
        (
            part("loop", "ShortAndLongLoops", weights={"type": "LoopWeights", name: -1.0}),
            f"weights.{name}=-1.0",
        )
        for name in vars(LoopWeights())
    ),
    (part("loop", "ShortAndLongLoops", top_target="none"), "top_target='none' is unknown"),
    (part("loop", "ShortAndLongLoops", warmup=-1), "warmup=-1"),
    (part("loop", "ShortAndLongLoops", pace=-1.0), "pace=-1.0"),
    *(
        (part("loop", "DifferenceLoop", **{name: value}), f"{name}={value!r}")
        for name, value in (
            ("step", 0.0),
            ("prior_weight", -1.0),
            ("pull", "down"),
            ("start", 0.5),
            ("align", -1),
        )
    ),
    *(
        (part("loop", "DifferenceLoop", feedback={"type": kind, name: -1}), f"{name}=-1")
        for kind, name in (
            ("LocalDifference", "sigma"),
            ("LocalDifference", "rows"),
            ("LocalDifference", "every"),
            ("Partners", "weight"),
            ("Inverses", "sigma"),
        )
    ),
    ({"contractive": -1.0}, "contractive=-1.0"),
    ({"sparsity": -1.0}, "sparsity=-1.0"),
    ({"rates": Rates(feedback=[0.1] * 2)}, "rates.feedback has 2 entries"),
    ({"corruption": [LOUD]}, "corruption has 1 entries"),
]
OF_LOOPS = [
    ({"loop": LocalDifference()}, "loop=LocalDifference: a Loop is needed"),
    ({"loop": "ShortAndLongLoops"}, "loop='ShortAndLongLoops': a Loop is needed"),
    ({"loop": DifferenceLoop}, "loop=the class DifferenceLoop: a Loop is needed"),
    *(({"loop": empty}, f"loop={re.escape(repr(empty))}: a Loop") for empty in ([], {}, 0, "")),
    ({"corruption": []}, "corruption has 0 entries"),
    ({"corruption": LOUD}, "corruption=GaussianNoise: a list is needed"),
    ({"corruption": [LOUD, LOUD, LOUD, 0.1]}, r"corruption\[3\]=0.1: a Corruption is needed"),
    ({"rates": 1e-3}, "rates=0.001: a Rates is needed"),
]
OF_FEEDBACK = [
    *(
        (partial(DifferenceLoop, wrong), f"feedback={words}: a Feedback is needed")
        for wrong, words in (
            ("Exact", "'Exact'"),
            (Exact, "the class Exact"),
            ([], r"\[\]"),
            (DifferenceLoop(), "DifferenceLoop"),
            (torch.nn.Linear(2, 2), "Linear"),
        )
    ),
    (partial(ShortAndLongLoops, JointWeights()), "weights=JointWeights: a LoopWeights is needed"),
    (partial(DifferenceLoop, Exact(), align=1), "align=1: feedback=Exact does not learn"),
    (partial(DifferenceLoop, Unlearned(), align=5), "align=5: feedback=Unlearned does not learn"),
    (lambda: Silent(small_stack()).total_loss((torch.rand(2, 8),)), "Silent gives no losses"),
]
OF_KL = [
    ({"reach": "far"}, "reach='far' is unknown; accepted: full, within_layer"),
    ({"alpha": -1.0}, "alpha=-1.0"),
    ({"prior_every": -1}, "prior_every=-1"),
    ({"tie_noise": True}, "tie_noise=True needs a prior with a bandwidth"),
    ({"tie_noise": True, "training_prior": ParzenPrior()}, "must not be learned"),
]


def signs(**settings):
    return deep_autoencoder([6, 5, 4], units="sign", settings=Settings(**settings))


#: Rules over discrete units, and what would have to move them.
OF_DISCRETE = [
    (VariationalEMRule, {}, {}, "inference=TargetPropInference moves real units, but h_1, h_2 "),
    (VariationalEMRule, {}, {"inference": GradientInference()}, "inference=GradientInference"),
    (TargetPropRule, {"sampler": GenerateSampler()}, {}, "sampler.inference=TargetProp"),
    (KLRule, {"sampler": LatentChainSampler()}, {}, "sampler.inference=TargetPropInference"),
    (TargetPropRule, {"inpainter": Inpainter()}, {}, "inpainter.inference=TargetPropInf"),
]


NET = {"units": "binary", "stochastic": True, "prior": gendae.FactorialPrior("bernoulli")}


def bits(**options):
    return deep_autoencoder([6, 5, 4], **{**NET, **options})


#: Rules of p(x, h) and q(h | x), and what has no density.
OF_DIRECTED = [
    (WakeSleepRule, {"stochastic": False}, {}, "recognition=Discrete of pair 1: deterministic"),
    (WakeSleepRule, {"prior": GaussianPrior()}, {}, "h_2 has a density on one side and prob"),
    (WakeSleepRule, {"prior": gendae.AutoencoderPrior([4])}, {}, "AutoencoderPrior has no densi"),
    (
        WakeSleepRule,
        {"units": None, "stochastic": False, "prior": gendae.DenoisingPrior()},
        {},
        "its density takes a flow for each code; accepted: FactorialPrior, ",
    ),
    (ReweightedWakeSleepRule, {}, {"samples": 0}, "samples=0: a whole number >= 1"),
    (ReweightedWakeSleepRule, {}, {"sleep": 1.5}, r"sleep=1.5: a number in \[0, 1\]"),
    (ImportanceWeightedRule, {}, {}, "of pair 1: draws of discrete units have no derivative"),
]


def unfitted():
    return WakeSleepRule(bits()).losses((torch.rand(3, 6),))


def half_drawn():
    """A layer half of whose units are Gaussian."""
    law = Laws([Gaussian(0.5), Discrete("binary")], [2, 2])
    pair = Pair(Affine(6, 4, "sigmoid"), Affine(4, 6), recognition=law)
    return gendae.Stack(pair, prior=GaussianPrior("identity", 1.0))


def tied():
    return gendae.Stack(TiedPair(7, 5))


def noisy():
    prior = GaussianPrior("identity", 1.0)
    return deep_autoencoder([12, 4], ["linear"], noise=0.5, prior=prior)


# -- the joint rule ------------------------------------------------------------------------------

UNKNOWN = "'face' is no modality of this model"
OF_JOINT = [
    (part("hiding", "Hiding", chances=1.5), r"hiding.chances=1.5: a number in \[0, 1\]"),
    (
        part("hiding", "Hiding", chances={"image": 1.5}),
        r"hiding.chances\['image'\]=1.5: a number in \[0, 1\]",
    ),
    (
        part("hiding", "Hiding", chances={"label": -0.1}),
        r"hiding.chances\['label'\]=-0.1: a number >= 0",
    ),
    (part("hiding", "Hiding", chances={"face": 0.1}), f"{UNKNOWN}; it has image, label"),
    (part("hiding", "Hiding", walkback=-1), "hiding.walkback=-1: a whole number >= 0"),
    (part("weights", "JointWeights", modalities={"face": 1.0}), UNKNOWN),
    (
        part("weights", "JointWeights", modalities={"image": -1.0}),
        r"weights.modalities\['image'\]=-1.0: a number >= 0",
    ),
    *(
        (part("weights", "JointWeights", **{name: -1.0}), f"weights.{name}=-1.0")
        for name in ("target", "pair", "short", "recirculation", "long")
    ),
    (part("hybrid", "Hybrid", outputs=["y"]), "'y' is no modality of this model"),
    (
        part("hybrid", "Hybrid", joint_weight=1.1),
        r"hybrid.joint_weight=1.1: a number in \[0, 1\] is needed",
    ),
    (part("hybrid", "Hybrid", unlabelled=-0.1), r"hybrid.unlabelled=-0.1: a number in \[0, 1\]"),
    (
        part("hybrid", "Hybrid", discriminant="score"),
        "hybrid.discriminant='score' is unknown; accepted: missing, inferred, gradient",
    ),
    (part("inferring", "Inferring", weight=-1.0), "inferring.weight=-1.0"),
    (part("inferring", "Inferring", ramp=-1.0), "inferring.ramp=-1.0"),
    (part("inferring", "Inferring", confidence=1.5), "inferring.confidence=1.5"),
    (
        part("inferring", "Inferring", weight=1.0) | part("hybrid", "Hybrid", outputs=["image"]),
        r"hybrid.outputs=\['image'\], inferring.weight=1.0: .*only labels are inferred",
    ),
    ({"reach": "none"}, "reach='none' is unknown; accepted: pair, full"),
    ({"weights": LoopWeights()}, "weights=LoopWeights: a JointWeights is needed"),
    ({"hiding": 0.5}, "hiding=0.5: a Hiding is needed"),
    ({"hybrid": 0.5}, "hybrid=0.5: a Hybrid is needed"),
    ({"inferring": "label"}, "inferring='label': an Inferring is needed"),
    ({"feedback": "Exact"}, "feedback='Exact': a Feedback is needed"),
    ({"feedback": []}, r"feedback=\[\]: a Feedback is needed"),
    ({"feedback": Exact()}, "feedback=Exact would not be used"),
    ({"feedback": LocalDifference()}, "feedback=LocalDifference would not be used"),
    ({"rates": Rates(g=[0.1] * 2)}, "rates.g has 2 entries.* the 3 layers"),
]


def joint_of(options):
    return rule_of(**build(options))


SEVERAL = "JointTargetPropRule trains a JointStack of several"
ALONE = {"image": {"sizes": [6, 5]}}
LATENT = {"sizes": [2], "kind": "latent"}
REAL = {"sizes": [2], "kind": "real"}


def topped(recognition, pair=None):
    """The rule over a junction whose code has a law, and a pair above it."""
    stack = stack_of()
    junction = Junction(stack.top[0].f, stack.top[0].g, recognition)
    above = [] if pair is None else [pair]
    return rule_of(JointStack(stack.modalities, [junction, *above]).double())


UPPER = (Affine(5, 4, "tanh"), Affine(4, 5))
LEARNED = "has a law of codes that is to be learned"
#: The law of h_3 above modalities of two pairs, and a pair above it.
OF_TOPS = [
    ((LearnedGaussian(5),), f"pair 3 {LEARNED}"),
    ((LearnedGaussian(5), Pair(*UPPER)), f"pair 3 {LEARNED}"),
    ((None, Pair(*UPPER, recognition=LearnedGaussian(4))), f"pair 4 {LEARNED}"),
    ((None, Pair(*UPPER, LearnedGaussian(5))), f"pair 4 {LEARNED}"),
    ((None, OptimizingPair(*UPPER)), "pair 4 is a OptimizingPair"),
]


def with_learned_codes():
    stack = stack_of()
    for modality in stack.modalities.values():
        for pair in modality.pairs:
            pair.recognition = LearnedGaussian(pair.f.out_features)

    junction = Junction(stack.top[0].f, stack.top[0].g)
    return JointStack(stack.modalities, [junction]).double()


CLEAN = GaussianNoise(0.0)


def learned_code(noise=0.3):
    sizes = [5, 4] if isinstance(noise, float) else [5, 4, 3]
    return deep_autoencoder(sizes, noise=noise)


def width_of_x():
    return Stack(Pair(Affine(5, 4), Affine(4, 5), LearnedGaussian(5, given=4)))


#: Laws with parameters that no term of the losses would teach.
OF_LAWS = [
    (lambda: TargetPropRule(learned_code(), PairLoops()), f"pair 1 {LEARNED}"),
    (lambda: TargetPropRule(learned_code(noise=[0.3, None])), f"pair 1 {LEARNED}"),
    (lambda: TargetPropRule(learned_code(), corruption=[CLEAN] * 2), "corruption: the top draws"),
    (lambda: TargetPropRule(learned_code(), DifferenceLoop(pull="prior")), "pull='prior': the"),
    (lambda: learned_code(noise=[0.3]), "noise has 1 entries for 2 layers"),
    (lambda: learned_code(noise="much"), "noise='much': a list is needed"),
    (lambda: TargetPropRule(width_of_x()), "observation of pair 1: its width depends on h_1"),
    (lambda: JointTargetPropRule(with_learned_codes()), f"pair 1 {LEARNED}"),
]
OF_JOINT_STACKS = [
    (lambda: JointTargetPropRule(deep_autoencoder([6, 4])), f"stack=Stack: {SEVERAL}"),
    (lambda: JointTargetPropRule(joint_autoencoder(ALONE, [4])), f"stack=JointStack: {SEVERAL}"),
    (lambda: JointTargetPropRule(stack_of(top=())), f"stack=JointStack: {SEVERAL}"),
    (
        lambda: JointTargetPropRule(stack_of(), [LOUD] * 2),
        "corruption has 2 entries; a stack of 3 pairs has 4",
    ),
    (
        lambda: rule_of().losses((torch.rand(4, 6).double(),)),
        r"x has shape \(4, 6\); the modalities \(image 6 pixels, label 3 onehot\) need rows of 9",
    ),
    (
        lambda: rule_of().losses((torch.rand(4, 9).double(), torch.ones(4, 3).bool())),
        r"the mask has shape \(4, 3\); .* \(4, 2\)",
    ),
    (
        lambda: rule_of(stack_of(top=(5, 4)), reach="full", feedback=Exact()),
        "feedback=Exact would not be used",
    ),
    (
        lambda: rule_of(stack_of(top=(5, 4)), feedback=Partners()),
        "feedback=Partners: the maps that join modalities are no inverses",
    ),
    *((partial(topped, *parts), words) for parts, words in OF_TOPS),
    (lambda: joint_autoencoder({"phi": LATENT, "x": REAL}, [4]), "latent"),
    (lambda: joint_autoencoder({"phi": LATENT}, [4]), "latent|labels alone"),
]


# -- rules of classifiers ------------------------------------------------------------------------

SUPERVISED = (*BASELINES, DifferenceTargetPropRule)
#: Batches of 12 images of width 7, and labels of 4 classes, with a mistake.
OF_BATCHES = [
    (lambda x, y: (x,), "no labels"),
    (lambda x, y: (x, x[:, 0]), "torch.float64; class indices of an integer type"),
    (lambda x, y: (x, y.float()), "torch.float32"),
    (lambda x, y: (x, y > 1), "torch.bool"),
    (lambda x, y: (x, y - y.min() + 2), "from 2 to [45]; the model has 4 classes"),
    (lambda x, y: (x, y - y.max() - 1), "holds labels from -"),
    (lambda x, y: (x, y[:5]), r"y has shape \(5,\).*\(12,\)"),
    (lambda x, y: (x, y[:, None]), r"\(12, 1\)"),
    (lambda x, y: (x[:, :5], y), r"x has shape \(12, 5\)"),
]


def losses_of(cls, change):
    x, y = batch()
    y[:2] = torch.tensor([0, 3])  # the least and the largest label
    return cls(network()).losses(change(x, y))


def shallow():
    return gendae.Stack(*network().pairs)


def with_an_mlp():
    pairs = [Pair(MLP(7, [9], 6, "tanh"), Affine(6, 7)), Pair(Affine(6, 5, "tanh"), Affine(5, 6))]
    return Classifier(*pairs, output=Affine(5, 4)).double()


OF_NETWORKS = [
    ({"bits": [1]}, "h_1 is transmitted as bits.*accepted: DifferenceTargetPropRule"),
    ({"stochastic": True}, "h_1 is transmitted as bits.*accepted: DifferenceTargetPropRule"),
]
#: Networks of 4 layers, and how many of the lowest must be fixed.
FIXED = [({"bits": [1]}, 1), ({"bits": [2]}, 2), ({"stochastic": True}, 3)]
OF_PHASES = [
    ({"gamma": 0.0}, "gamma="),
    ({"gamma": 1.5}, "gamma="),
    ({"gamma": math.nan}, "gamma="),
    ({"sweeps": 0}, "sweeps="),
]
OF_EQUILIBRIUM = [
    ({"beta": 0.0}, "beta=0.0"),
    ({"nudge": "two"}, "nudge='two' is unknown; accepted: both, one"),
    ({"gamma": 1.5}, "gamma="),
]
OF_PREDICTIVE_CODING = [
    ({"steps": -1}, "steps=-1"),
    ({"delta": 1.5}, "delta=1.5"),
    ({"variance": [1.0] * 3}, "variance has 3 entries.* the 2 layers"),
    ({"variance": [1.0, 0.0]}, "variance=0.0"),
]
OF_DIFFERENCE = [
    (
        part("inverses", "InverseLearning", sigma=[0.1] * 3),
        "inverses.sigma has 3 entries.* the 2 layers",
    ),
    (part("inverses", "InverseLearning", sigma=-0.1), "sigma=-0.1"),
    (part("inverses", "InverseLearning", sigma=[0.1, math.nan]), "sigma=nan"),
    ({"inverses": gendae.Inverses()}, "inverses=Inverses: an InverseLearning is needed"),
    ({"iterations": 3}, "iterations=3: an Iterations is needed"),
    ({"input_corruption": 0.3}, "input_corruption=0.3: a Corruption is needed"),
    ({"step": 0}, "step=0"),
    ({"step": -0.1}, "step=-0.1"),
    (part("inverses", "InverseLearning", half_life=0), "half_life=0"),
    (part("iterations", "Iterations", rounds=0), "iterations.rounds=0"),
    (
        part("iterations", "Iterations", rounds=2) | {"difference": False},
        "rounds=2 need difference=True",
    ),
    (part("iterations", "Iterations", reconstruct=0.1), "rounds >= 2"),
    (part("iterations", "Iterations", reconstruct=1.1, rounds=2), r"in \[0, 1\]"),
    (part("iterations", "Iterations", reconstruct=-1), "iterations.reconstruct=-1"),
    (part("inverses", "InverseLearning", schedule="alternate", warmup=5), "inverses.warmup=5"),
    (part("inverses", "InverseLearning", schedule="both"), "joint, alternate"),
    (part("inverses", "InverseLearning", warmup=-1), "inverses.warmup=-1"),
    ({"samples": 0}, "samples=0"),
    ({"rates": Rates(f=[0.1] * 3)}, "rates.f has 3 entries.* the 4 layers"),
    ({"rates": Rates(g=[0.1] * 4)}, "rates.g has 4 entries.* the 3 layers"),
]


WARM = part("inverses", "InverseLearning", warmup=5)


def deep(**options):
    return network((7, 6, 5, 5), **options)


def answers_at_every_step():
    return gendae.recurrent_classifier(2, 4, 5, classes=3, every_step=True)


def one_hidden():
    return network((7, 6))


def credit_of(measure, change=lambda x, y: (x, y)):
    return measure(BackpropRule(network()), *change(*batch()))


OF_CREDIT = [
    (lambda: credit.angles(rule_of(), *batch()), "JointTargetPropRule has no global loss"),
    (lambda: credit_of(credit.target_improvement), "BackpropRule has no targets"),
    (lambda: credit_of(credit.angles, lambda x, y: (x[:, :5], y)), r"\(batch, 7\)"),
    (lambda: credit_of(credit.angles, lambda x, y: (x, y + 4)), "4 classes"),
    (lambda: CreditMonitor(every=-1), "every=-1"),
    (lambda: CreditMonitor(n=0), "n=0"),
]


# -- all of them ---------------------------------------------------------------------------------


def of_supervised(rule):
    """The refusals that rules for classifiers have in common."""
    of_layers = "has .* each of the 3 layers"
    return [
        (made(rule, network, rates=Rates(f=[1e-3] * 2)), f"rates.f {of_layers}"),
        (made(rule, network, rates=Rates(decay_f=[0.0] * 4)), f"rates.decay_f {of_layers}"),
        (made(rule, shallow), "stack=Stack has no output layer"),
        *((partial(losses_of, rule, change), words) for change, words in OF_BATCHES),
    ]


def of_affine(rule):
    """The refusals of rules that are stated for affine layers without bits."""
    return [
        *((made(rule, partial(network, **options)), words) for options, words in OF_NETWORKS),
        (made(rule, with_an_mlp), f"{rule.__name__} does not support this network: f_1 is MLP"),
    ]


def of_two_phases(rule):
    words = r"gamma=1e-06: a weight of the feedback in \[5.2e-05, 1\]"
    return [
        *((made(rule, network, **options), words) for options, words in OF_PHASES),
        (made(rule, partial(network, (7, *[6] * 7)), gamma=1e-6), words),
    ]


def of_fixed(options, enough):
    """Back-propagation refuses layers that learn below bits, and says what it accepts."""
    words = f"StraightThroughRule, or BackpropRule with fixed={enough}$"
    below = partial(deep, **options)
    return [(made(BackpropRule, below, fixed=fixed), words) for fixed in range(enough)]


CASES = [
    *((partial(Rates, **options), words) for options, words in OF_RATES),
    (fit_clipped, r"gradient_clip_val=0\.5 .* use rates\.clip=0\.5"),
    *((made(VariationalEMRule, small_stack, **options), words) for options, words in OF_EM),
    *((made(BackStepRule, tied, **options), words) for options, words in OF_BACK_STEPS),
    (lambda: BackStepRule(tied()).losses((torch.rand(12, 5),)), r"x has shape \(12, 5\)"),
    *((made(TargetPropRule, small_stack, **options), words) for options, words in OF_TARGET_PROP),
    *((made(TargetPropRule, small_stack, **options), words) for options, words in OF_LOOPS),
    *OF_FEEDBACK,
    *((made(KLRule, noisy, **options), words) for options, words in OF_KL),
    *(
        (made(rule, partial(signs, **settings), **options), words)
        for rule, settings, options, words in OF_DISCRETE
    ),
    *(
        (made(rule, partial(bits, **layers), **options), words)
        for rule, layers, options, words in OF_DIRECTED
    ),
    (unfitted, "FactorialPrior is not fitted"),
    (lambda: WakeSleepRule(bits()).losses((torch.rand(3, 5),)), r"x has shape \(3, 5\)"),
    (lambda: WakeSleepRule(half_drawn()), "recognition=Discrete of pair 1: determ"),
    (lambda: ImportanceWeightedRule(half_drawn()), "recognition=Discrete of pair 1: determ"),
    (lambda: gendae.LangevinInference(steps=10), "adapt=10, steps=10: P never stays"),
    *((partial(joint_of, options), words) for options, words in OF_JOINT),
    *OF_JOINT_STACKS,
    *OF_LAWS,
    *(row for rule in SUPERVISED for row in of_supervised(rule)),
    *(row for rule in (FeedbackAlignmentRule, *TWO_PHASES) for row in of_affine(rule)),
    *(row for rule in TWO_PHASES for row in of_two_phases(rule)),
    *((made(EquilibriumPropagationRule, network, **o), words) for o, words in OF_EQUILIBRIUM),
    *of_affine(EquilibriumPropagationRule),
    *((made(PredictiveCodingRule, network, **o), words) for o, words in OF_PREDICTIVE_CODING),
    *((made(PredictiveCodingRule, partial(network, **o)), words) for o, words in OF_NETWORKS),
    (made(PredictiveCodingRule, answers_at_every_step), "it answers at every step"),
    *(row for options, enough in FIXED for row in of_fixed(options, enough)),
    *(
        (made(BackpropRule, deep, fixed=fixed), f"fixed={fixed}: .*(>= 0|accepted: 0 .. 3)")
        for fixed in (-1, 4, 5)
    ),
    *((made(DifferenceTargetPropRule, deep, **o), words) for o, words in OF_DIFFERENCE),
    (made(DifferenceTargetPropRule, one_hidden, **WARM), "one hidden layer"),
    *OF_CREDIT,
]


@pytest.mark.parametrize(("call", "words"), CASES)
def test_what_is_refused(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()

    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["GeneRecRule", "ContrastiveHebbianRule", "NudgedSTDPRule"])
def test_phases_that_a_class_clamps_refuse_values(name):
    classifier = network()
    of_values = Classifier(*classifier.pairs, output=classifier.output, predicts="values")
    with pytest.raises(ValueError, match="it predicts values, and what clamps the phases is a"):
        getattr(gendae, name)(of_values)
