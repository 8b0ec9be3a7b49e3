"""Options such as --sampler.rounds 20: what they set, what they keep, and what they refuse."""

from importlib import import_module

import numpy as np
import pytest

import gendae as library
from gendae import Completer, GaussianNoise, Inpainter, save
from gendae.commands.sections import adjusted
from gendae.models.settings import Settings
from gendae.registry import build, describe
from gendae.sampling.samplers import Sampler
from tests.commands.test_cli import gendae, one_line
from tests.conftest import small_stack

INFERENCE = library.TargetPropInference(3, alpha=0.25)
SETTINGS = Settings(
    sampler=library.GenerateSampler(4, INFERENCE),
    inpainter=Inpainter(3, INFERENCE, chains=2),
    completer=Completer.annealed(8, begin="prior", tolerance=0.0),
)
LEVEL = library.LevelSampler(1, 3, GaussianNoise(0.2), residual=0.5)


@pytest.fixture
def folder(tmp_path, monkeypatch, digits):
    """The current folder: a model of digits, one of digits with labels, and images."""
    monkeypatch.chdir(tmp_path)
    x = digits.split("train").x
    image = {"sizes": [64, 12]}
    label = {"sizes": [10], "kind": "onehot"}
    joint = library.joint_autoencoder({"image": image, "label": label}, [8])

    for name, stack, codes in (("m", small_stack([64, 20, 8]), x), ("j", joint, None)):
        if codes is None:
            codes, _ = joint.join({"image": x, "label": digits.split("train").y})
        stack.prior.fit(stack.encode(codes)[-1].detach())
        stack.fit_residuals(codes)
        stack.settings = SETTINGS
        stack.facts = {"shape": [8, 8], "shapes": {"image": [8, 8]} if name == "j" else {}}
        save(stack, f"{name}.safetensors")
        if name == "m":
            stack.settings = Settings(sampler=LEVEL)
            save(stack, "l.safetensors")

    np.save("x.npy", digits.split("test").x[:3].numpy())
    return tmp_path


def changed(thing, *way, **arguments):
    """A thing, or one within it, with other arguments."""
    data = describe(thing)
    part = data
    for name in way:
        part = part[name]
    part.update(arguments)

    return build(data)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, LEVEL),
        ({"other.rounds": "9"}, LEVEL),
        ({"sampler.rounds": "9"}, changed(LEVEL, rounds=9)),
        (
            {"sampler.level": "null", "sampler.residual": "0"},
            changed(LEVEL, level=None, residual=0.0),
        ),
        ({"sampler.residual": "1e-3"}, changed(LEVEL, residual=0.001)),
        ({"sampler.corruption.sigma": "0.7"}, changed(LEVEL, "corruption", sigma=0.7)),
        (
            {"sampler.corruption": "SpikeNoise", "sampler.corruption.draws": "2"},
            changed(LEVEL, corruption=library.SpikeNoise(2)),
        ),
    ],
)
def test_options_set_what_they_name_and_keep_the_rest(options, expected):
    before = describe(LEVEL)
    thing = adjusted("sampler", LEVEL, Sampler, options)

    assert describe(thing) == describe(expected)
    assert (thing is LEVEL) == (not any(name.startswith("sampler.") for name in options))
    assert describe(LEVEL) == before


def seen_by(monkeypatch, module, name):
    """What a function of a module is called with."""
    calls = []
    original = getattr(module, name)

    def function(*arguments, **options):
        calls.append([*arguments, *options.values()])
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, function)
    return calls


NOISE = "--completer.corruption GaussianNoise --completer.corruption.sigma 0.4"


GENERATE = ("commands.sample", "generate", 2)
INPAINT = ("completion.inpainting", "inpaint", 3)
COMPLETE = ("completion.modalities", "complete", 4)
GIVEN = ("completion.modalities", "complete", 2)
CHAIN = ("commands.chain", "chain_states", 1)
OWN = {
    "sampler": SETTINGS.sampler,
    "inpainter": SETTINGS.inpainter,
    "completer": SETTINGS.completer,
}


def own(name, *way, **arguments):
    """The models' own sampler, inpainter or completer, with other arguments."""
    return changed(OWN[name], *way, **arguments)


@pytest.mark.parametrize(
    ("command", "seen", "expected"),
    [
        ("sample m", GENERATE, own("sampler")),
        ("sample m --sampler.inference.steps=2", GENERATE, own("sampler", "inference", steps=2)),
        ("sample m --sampler generate --sampler.rounds 0", GENERATE, own("sampler", rounds=0)),
        (
            "sample m --sampler ancestral --sampler.noise 1",
            GENERATE,
            library.AncestralSampler(1.0),
        ),
        ("sample m --sampler chain --sampler.rounds 2", GENERATE, library.LatentChainSampler(2)),
        (
            "sample m --sampler joint --sampler.from_above 0.9",
            GENERATE,
            library.JointChainSampler(from_above=0.9),
        ),
        ("inpaint m --data x.npy", INPAINT, own("inpainter")),
        (
            "inpaint m --data x.npy --inpainter.inference.temperature 0.1",
            INPAINT,
            own("inpainter", "inference", temperature=0.1),
        ),
        ("complete j --given label=3", COMPLETE, own("completer")),
        ("complete j --given label=3 --completer.rounds 2", COMPLETE, own("completer", rounds=2)),
        ("complete j --given label=3 --rounds 2", COMPLETE, own("completer", rounds=2)),
        (
            "complete j --given label=3 --completer.annealing.end 0.5",
            COMPLETE,
            own("completer", "annealing", end=0.5),
        ),
        (
            f"complete j --given label=3 --mode mcmc {NOISE}",
            COMPLETE,
            Completer.mcmc(8, begin="prior", tolerance=0.0, corruption=GaussianNoise(0.4)),
        ),
        (
            "sample j --given label=3 --n 2",
            GIVEN,
            Completer.mcmc(5, begin="prior", tolerance=0.0),
        ),
        (
            "sample j --given label=3 --n 2 --completer.rounds 3 --completer.use_prior true",
            GIVEN,
            Completer.mcmc(3, begin="prior", tolerance=0.0, use_prior=True),
        ),
        ("chain l --steps 2 --n 3 --level 0", CHAIN, changed(LEVEL, level=0)),
        (
            "chain m --steps 2 --n 3 --level 1 --sampler.residual 1",
            CHAIN,
            library.LevelSampler(1, residual=1.0),
        ),
        (
            "chain m --steps 2 --n 3 --sampler generate --sampler.inference.alpha 0",
            CHAIN,
            own("sampler", "inference", alpha=0.0),
        ),
    ],
)
def test_commands_run_what_the_options_say(folder, monkeypatch, command, seen, expected):
    """Their own object, but for what is named: nothing that the model says is lost."""
    module, function, place = seen
    calls = seen_by(monkeypatch, import_module(f"gendae.{module}"), function)
    name, model, *options = command.split()

    assert gendae(name, f"{model}.safetensors", *options) == 0

    (call,) = calls
    assert describe(call[place]) == describe(expected)


def test_help_of_a_section_lists_arguments(folder, capsys):
    assert gendae("sample", "m.safetensors", "--sampler.help") == 0
    printed = capsys.readouterr().out
    assert "--sampler.inference" in printed and "--sampler.rounds" in printed

    assert gendae("sample", "m.safetensors", "--sampler.help", "LevelSampler") == 0
    assert "--sampler.residual" in capsys.readouterr().out


SAMPLE = "sample m.safetensors --out new.png"
FILL = "inpaint m.safetensors --data x.npy --out new.png"
INFER = "complete j.safetensors --given label=3 --out new.npz"
WALK = "chain m.safetensors --out new.png"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            f"{SAMPLE} --sampler.round 3",
            "sampler.round: no argument of GenerateSampler; accepted: r",
        ),
        (f"{SAMPLE} --sampler.round 3", "did you mean rounds?"),
        (f"{SAMPLE} --sampler.alpha 3", "did you mean --sampler.inference.alpha?"),
        (f"{SAMPLE} --sampler.rounds many", "sampler.rounds=many: a whole number is needed"),
        (f"{SAMPLE} --sampler.rounds=", "sampler.rounds=: a whole number is needed"),
        (f"{SAMPLE} --sampler.rounds -1", "rounds=-1: a whole number >= 0 is needed"),
        (f"{SAMPLE} --sampler.rounds 2.5", "sampler.rounds=2.5: a whole number is needed"),
        (f"{SAMPLE} --sampler.rounds true", "sampler.rounds=True: a whole number is needed"),
        (f"{SAMPLE} --sampler.rounds 1e400", "sampler.rounds=inf: a whole number is needed"),
        (f"{SAMPLE} --sampler.rounds [1,2]", "sampler.rounds=[1, 2]: a whole number is needed"),
        (f"{SAMPLE} --sampler.rounds {{a", "sampler.rounds={a: a whole number is needed"),
        (f"{SAMPLE} --sampler.rounds {'9' * 5000}", "digits"),
        (f"{SAMPLE} --sampler.rounds !!python/object:os.system", "a whole number is needed"),
        (f"{SAMPLE} --sampler.rounds", "sample: --sampler.rounds: expected one argument"),
        (f"{SAMPLE} --sampler. 3", "no option --sampler.: after each dot"),
        (f"{SAMPLE} --sampler.inference..steps 3", "after each dot, the name of an argument"),
        (f"{SAMPLE} --sampler.inference.help", "expected one argument"),
        (f"{SAMPLE} --sampler.inference.delta nan", "inference.delta=nan: a number is needed"),
        (f"{SAMPLE} --sampler.inference.delta -1", "delta=-1.0: a number >= 0.0 is needed"),
        (f"{SAMPLE} --sampler.inference.N 3", "sampler.inference.N: no argument of TargetPropInf"),
        (f"{SAMPLE} --sampler.inference os.system", "sampler.inference=os.system"),
        (f"{SAMPLE} --sampler.inference Gradient", "did you mean GradientInference?"),
        (f"{SAMPLE} --sampler.help Nope", "--sampler.help='Nope' is unknown"),
        (f"{SAMPLE} --sampler chain --sampler.corruption.sigma -1", "sigma=-1.0: a number >= 0.0"),
        (
            f"{SAMPLE} --sampler level --sampler.corruption.sigma 1",
            "sampler.corruption.sigma: no Corruption is named; set sampler.corruption to one of ",
        ),
        (f"{FILL} --data=", "--data='': the name of a file or folder is needed"),
        ("evaluate m.safetensors --data=", "--data='': the name of a file or folder is needed"),
        (f"{SAMPLE} --sampler joint --sampler.from_above 2", "from_above=2.0 is a probability"),
        (f"{SAMPLE} --sampler level --sampler.level 7", "level=7 is not in 0 .. 2"),
        (f"{SAMPLE} --inpainter.rounds 3", "no option --inpainter.rounds; accepted: --help, "),
        (f"{SAMPLE} --samler.rounds 3", "did you mean --sampler"),
        (f"{SAMPLE} --completer.rounds 3", "--given NAME=VALUE asks for it"),
        (f"{SAMPLE} --rounds 3", "that of a sampler is --sampler.rounds"),
        ("sample j.safetensors --given label=3 --sampler.rounds 3", "use --completer.OPTION"),
        ("sample j.safetensors --given label=3 --rounds 2 --completer.rounds 3", "give one"),
        (f"{FILL} --inpainter.chain 3", "did you mean chains?"),
        (f"{FILL} --inpainter.chains 0", "chains=0: a whole number >= 1 is needed"),
        (f"{FILL} --inpainter.level top", "inpainter.level=top: a whole number or null"),
        (f"{FILL} --sampler.rounds 1", "no option --sampler.rounds"),
        (f"{INFER} --completer.begin priior", "did you mean prior?"),
        (f"{INFER} --completer.settle 2", "did you mean --completer.annealing.settle?"),
        (f"{INFER} --completer.annealing.settle 2", "settle=2.0: a fraction of the rounds"),
        (f"{INFER} --rounds 2 --completer.rounds 3", "set the same argument: give one"),
        (f"{INFER} --completer.use_prior maybe", "use_prior=maybe: true or false is needed"),
        (f"{WALK} --sampler.rounds 5", "as many transitions as --steps says"),
        (f"{WALK} --sampler generate --level 1", "--level 1 is of --sampler level"),
        (f"{WALK} --level 1 --sampler.level 1", "set the same argument: give one"),
        (f"{WALK} --sampler.residul 1", "did you mean residual?"),
    ],
    ids=lambda text: text[:70],
)
def test_a_mistake_is_one_line_exit_2_and_writes_nothing(folder, capsys, command, words):
    before = sorted(folder.rglob("*"))
    assert gendae(*command.split()) == 2
    assert words in one_line(capsys)
    assert sorted(folder.rglob("*")) == before
