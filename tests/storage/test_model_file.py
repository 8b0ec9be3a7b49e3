import copy
import json

import pytest
import torch
from safetensors.torch import load_file

from gendae import cli, generate, inpaint, load, save
from gendae.completion.inpainting import Inpainter
from gendae.corruption import GaussianNoise
from gendae.data.images import Digits
from gendae.inference import GradientInference, TargetPropInference
from gendae.laws import Bernoulli
from gendae.models.architectures import deep_autoencoder, deep_classifier
from gendae.models.classifier import Classifier
from gendae.models.settings import Settings
from gendae.priors.gaussian import GaussianPrior
from gendae.registry import build, describe, register, upgraded
from gendae.rules.backprop import BackpropRule
from gendae.rules.variational_em import VariationalEMRule
from gendae.sampling.samplers import LatentChainSampler
from gendae.storage.model_file import pretrained_classifier
from tests.conftest import small_stack
from tests.rules.test_base import trainer


def trained(tmp_path):
    """A .ckpt and a .safetensors of one trained stack with settings unlike the defaults."""
    settings = Settings(
        inpainter=Inpainter(rounds=3, chains=2),
        sampler=LatentChainSampler(4, GradientInference(3, 0.01), GaussianNoise(0.1)),
    )
    stack = deep_autoencoder(
        [64, 20, 8],
        observation="bernoulli",
        prior=GaussianPrior("full", 2.5),
        settings=settings,
    )
    rule = VariationalEMRule(
        stack,
        inference=TargetPropInference(7, 0.2),
        corruption=[GaussianNoise(0.4), GaussianNoise(0.2, decay=0.5), GaussianNoise(0.1)],
    )
    t = trainer()
    t.fit(rule, Digits())
    t.save_checkpoint(tmp_path / "m.ckpt")
    save(stack, tmp_path / "m.safetensors")

    return stack


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_round_trip_keeps_weights_prior_settings_and_facts(tmp_path, suffix):
    stack = trained(tmp_path)
    again = load(tmp_path / f"m{suffix}")

    assert isinstance(again.pairs[0].observation, Bernoulli)
    assert again.prior.variance_scale == 2.5
    assert describe(again.settings) == describe(stack.settings)
    assert again.facts["dataset"]["type"] == "Digits"
    assert again.facts["seed"] == torch.initial_seed()
    for name, value in load_file(tmp_path / "m.safetensors").items():
        assert torch.equal(value, again.state_dict()[name])
    assert torch.allclose(generate(again, 5, seed=0), generate(stack, 5, seed=0), atol=1e-5)

    x = torch.rand(2, 64)
    mask = torch.arange(64) < 32
    assert torch.allclose(
        inpaint(again, x, mask, seed=0), inpaint(stack, x, mask, seed=0), atol=1e-5
    )


def test_lightning_s_own_loading_works_with_plain_hyper_parameters(tmp_path):
    stack = trained(tmp_path)
    content = torch.load(tmp_path / "m.ckpt", weights_only=True)
    json.dumps(content["hyper_parameters"])  # plain data throughout
    rule = VariationalEMRule.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True)

    assert torch.equal(rule.stack.pairs[0].f.weight, stack.pairs[0].f.weight)
    assert rule.corruption[1].decay == 0.5
    assert rule.inference.delta == 0.2


def test_a_user_s_own_class_travels_once_registered_also_under_former_names():
    @register
    class LoudNoise(GaussianNoise):
        pass

    @register(aliases=["Roar", "Din"])
    class Shout(GaussianNoise):
        def __init__(self, volume=1.0):
            super().__init__(volume)
            self.volume = volume

        @classmethod
        def upgrade(cls, arguments):
            if arguments.pop("quiet", False):
                return {"type": "LoudNoise", "sigma": 0.0}
            if "loudness" in arguments:
                arguments["volume"] = arguments.pop("loudness") / 10
            return arguments

    assert isinstance(build(describe(LoudNoise(2.0))), LoudNoise)
    old = [{"type": "Roar", "loudness": 30}, {"type": "Din", "quiet": True, "more": 1}]
    kept = copy.deepcopy(old)
    shout, quiet = build(old)
    assert type(shout) is Shout and shout.volume == 3.0 and type(quiet) is LoudNoise
    assert old == kept and describe(shout) == {"type": "Shout", "volume": 3.0}
    assert upgraded({"a": (old[0],)}) == {"a": (describe(shout),)}
    assert upgraded(describe(shout)) == describe(shout)
    with pytest.raises(ValueError, match="Shout: .*str"):
        build({"type": "Roar", "loudness": "x"})
    with pytest.raises(ValueError, match="register"):
        describe(object())


@pytest.mark.parametrize(
    ("name", "weight", "half", "words"),
    [
        (
            "m.safetensors",
            float("nan"),
            False,
            "m.safetensors is not written: pairs.1.f.weight hold NaN",
        ),
        ("m.safetensors", 1e5, True, "f.weight hold numbers above 65504"),
        ("m.pt", 1.0, False, r"\.safetensors"),
    ],
)
def test_what_cannot_be_saved_leaves_no_file(tmp_path, name, weight, half, words):
    stack = small_stack()
    with torch.no_grad():
        stack.pairs[1].f.weight[0, 0] = weight

    with pytest.raises(ValueError, match=words):
        save(stack, tmp_path / name, half=half)
    assert not list(tmp_path.iterdir())


def test_a_trained_stack_becomes_a_classifier_that_lives_without_its_file(tmp_path):
    stack = deep_autoencoder([64, 20, 8], activations=["tanh", "tanh"])
    save(stack, tmp_path / "m.safetensors")
    network = pretrained_classifier(str(tmp_path / "m.safetensors"), classes=10)
    assert isinstance(network, Classifier)

    x = torch.rand(7, 64)
    h = stack.encode(x)[-1]
    assert torch.equal(network(x)[0], h @ network.output.weight.T + network.output.bias)

    w = network.output.weight.detach()
    assert network.output.init == "orthogonal"
    assert torch.allclose(w.T @ w, torch.eye(8), atol=1e-5)

    t = trainer()
    t.fit(BackpropRule(network), Digits())
    t.save_checkpoint(tmp_path / "fine.ckpt")
    assert not torch.equal(network.pairs[0].f.weight, stack.pairs[0].f.weight)  # fine-tuned too

    (tmp_path / "m.safetensors").unlink()
    again = load(tmp_path / "fine.ckpt")
    assert torch.equal(again(x), network(x))
    assert again.facts["pretrained"] == str(tmp_path / "m.safetensors")
    assert again.classes == 10


def test_a_classifier_s_own_output_layer_is_replaced(tmp_path):
    save(deep_classifier([8, 6], classes=3), tmp_path / "m.safetensors")
    network = pretrained_classifier(str(tmp_path / "m.safetensors"), classes=5, init="uniform")
    assert (network.classes, network.sizes, network.output.init) == (5, [8, 6], "uniform")


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (("none.ckpt",), FileNotFoundError, "none.ckpt"),
        (("m.safetensors", 0), ValueError, "out_features=0"),
        (("m.safetensors", 10, "zeros"), ValueError, "zeros"),
    ],
)
def test_what_cannot_become_a_classifier_is_named(tmp_path, monkeypatch, arguments, error, words):
    monkeypatch.chdir(tmp_path)
    save(small_stack(), "m.safetensors")
    with pytest.raises(error, match=words):
        pretrained_classifier(*arguments)


def test_a_pretrained_classifier_is_named_in_a_configuration(tmp_path):
    save(deep_autoencoder([64, 8]), tmp_path / "m.safetensors")
    stack = {
        "class_path": "gendae.pretrained_classifier",
        "init_args": {"model": str(tmp_path / "m.safetensors")},
    }
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    config = {
        "seed_everything": 0,
        "trainer": {"max_epochs": 2, **quiet},
        "model": {"class_path": "gendae.BackpropRule", "init_args": {"stack": stack}},
        "data": {"class_path": "gendae.Digits"},
    }
    (tmp_path / "c.yaml").write_text(json.dumps(config))

    place = ["--trainer.default_root_dir", str(tmp_path)]
    assert cli.main(["fit", "--config", str(tmp_path / "c.yaml"), *place]) == 0

    (tmp_path / "m.safetensors").unlink()
    assert load(tmp_path / "0001/checkpoints/best.ckpt").classes == 10


def test_half_precision_halves_the_file(tmp_path):
    stack = small_stack()
    whole = save(stack, tmp_path / "a.safetensors")
    half = save(stack, tmp_path / "b.safetensors", half=True)

    assert sorted(tmp_path.iterdir()) == [whole, half]
    assert half.stat().st_size < whole.stat().st_size

    again = load(half)
    assert again.dtype == torch.float32
    for name, value in stack.state_dict().items():
        assert torch.allclose(again.state_dict()[name], value, rtol=1e-3, atol=1e-6), name
