import json
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

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
from gendae.registry import build, describe, register
from gendae.rules.backprop import BackpropRule
from gendae.rules.rates import Rates
from gendae.rules.variational_em import VariationalEMRule
from gendae.sampling.samplers import JointChainSampler, LatentChainSampler
from gendae.storage.archive import CheckpointError
from gendae.storage.model_file import FORMAT, locate, pretrained_classifier, shipped, write_checked
from tests.conftest import small_stack
from tests.rules.test_base import trainer


def trained(tmp_path):
    """A .ckpt and a .safetensors of one trained stack with settings unlike the defaults."""
    settings = Settings(
        sampler=LatentChainSampler(4, GradientInference(3, 0.01), GaussianNoise(0.1)),
        inpainter=Inpainter(rounds=3, chains=2),
    )
    stack = deep_autoencoder(
        [64, 20, 8], observation="bernoulli", prior=GaussianPrior("full", 2.5), settings=settings
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


@pytest.mark.parametrize(
    "obj",
    [
        GaussianNoise(0.3, 0.5),
        TargetPropInference(3, 0.2, 0.1, 0.5),
        GradientInference(every_q=True),
        JointChainSampler(corruption=[GaussianNoise(0.1)] * 3),
        Inpainter(4),
        Digits(seed=3),
        small_stack(),
        VariationalEMRule(small_stack(), rates=Rates(f=[1e-3, 2e-3, 3e-3])),
    ],
    ids=lambda o: type(o).__name__,
)
def test_describe_and_build_are_inverse(obj):
    plain = json.loads(json.dumps(describe(obj)))
    assert describe(build(plain)) == plain


def test_only_registered_classes_with_their_own_arguments_are_built():
    with pytest.raises(ValueError, match="unknown type 'system'"):
        build({"type": "system", "command": "true"})
    with pytest.raises(ValueError, match="GaussianNoise"):
        build({"type": "GaussianNoise", "sigma": 0.1, "colour": "pink"})
    with pytest.raises(ValueError, match="register"):
        describe(object())


def test_a_user_s_own_class_travels_once_registered(tmp_path):
    @register
    class LoudNoise(GaussianNoise):
        pass

    assert isinstance(build(describe(LoudNoise(2.0))), LoudNoise)


def damage(path, kind):
    content = bytearray(path.read_bytes())
    if kind == "empty":
        content = b""
    elif kind == "cut":
        content = content[: len(content) // 2]
    elif kind == "extended":
        content += b"more"
    elif kind == "text":
        content = b"<html>not found</html>" * 50
    elif kind == "flipped":
        content[len(content) * 2 // 3] ^= 0x10
    else:
        content = torch.randint(0, 256, (5000,), dtype=torch.uint8).numpy().tobytes()

    path.write_bytes(bytes(content))


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("kind", ["empty", "cut", "extended", "text", "flipped", "random"])
def test_damaged_files_give_one_clear_error(tmp_path, suffix, kind):
    trained(tmp_path)
    path = tmp_path / f"m{suffix}"
    damage(path, kind)

    with pytest.raises(CheckpointError, match=f"m{suffix}") as error:
        load(path)
    assert "\n" not in str(error.value)
    assert "weights_only=False" not in str(error.value)


def test_foreign_files_are_named(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    save_file({"w": torch.zeros(2)}, tmp_path / "other.safetensors")
    for name in ("other.ckpt", "other.safetensors"):
        with pytest.raises(CheckpointError, match="not one that gendae wrote"):
            load(tmp_path / name)


def rewrite(path, edit):
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    content = json.loads(metadata["gendae"])
    edit(content)
    write_checked(path, metadata["format"], content, tensors)  # as if it had been saved like this


def test_another_architecture_is_named(tmp_path):
    trained(tmp_path)
    path = tmp_path / "m.safetensors"

    def other_width(content):
        content["stack"]["pairs"][0]["f"]["in_features"] = 65
        content["stack"]["pairs"][0]["g"]["out_features"] = 65

    rewrite(path, other_width)
    with pytest.raises(CheckpointError, match="another architecture"):
        load(path)

    rewrite(path, lambda content: content["stack"].update(type="Transformer"))
    with pytest.raises(CheckpointError, match="unknown type 'Transformer'"):
        load(path)


def test_nan_weights_are_refused(tmp_path):
    stack = small_stack()
    with torch.no_grad():
        stack.pairs[1].f.weight[0, 0] = float("nan")

    with pytest.raises(
        ValueError, match=r"m.safetensors is not written: pairs.1.f.weight hold NaN"
    ):
        save(stack, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())

    content = {"stack": describe(stack), "settings": {}, "facts": {}}
    tensors = {k: v for k, v in stack.state_dict().items() if v.numel()}
    write_checked(tmp_path / "m.safetensors", FORMAT, content, tensors)
    with pytest.raises(CheckpointError, match=r"NaN or infinite weights in pairs.1.f.weight"):
        load(tmp_path / "m.safetensors")


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"gendae": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError):
        load(tmp_path / "evil.ckpt")
    assert not (tmp_path / "owned").exists()


def test_missing_models_are_named_with_those_that_ship():
    with pytest.raises(FileNotFoundError, match="no-such-model"):
        load("no-such-model")
    for name in shipped():
        assert name in str(pytest.raises(FileNotFoundError, load, "no-such-model").value)


def test_saving_is_atomic_and_only_safetensors(tmp_path):
    with pytest.raises(ValueError, match=r"\.safetensors"):
        save(small_stack(), tmp_path / "m.pt")
    save(small_stack(), tmp_path / "m.safetensors")
    assert [f.name for f in tmp_path.iterdir()] == ["m.safetensors"]


def test_an_unfitted_stack_can_be_saved(tmp_path):
    save(deep_autoencoder([8, 4]), tmp_path / "m.safetensors")
    assert not load(tmp_path / "m.safetensors").prior.fitted


def test_ckpt_is_a_zip_whose_checksums_are_checked(tmp_path):
    trained(tmp_path)
    with zipfile.ZipFile(tmp_path / "m.ckpt") as archive:
        assert archive.testzip() is None
    assert locate(tmp_path / "m.ckpt") == tmp_path / "m.ckpt"


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


def test_half_precision_halves_the_file_and_refuses_what_it_cannot_hold(tmp_path):
    stack = small_stack()
    whole = save(stack, tmp_path / "a.safetensors")
    half = save(stack, tmp_path / "b.safetensors", half=True)

    assert half.stat().st_size < whole.stat().st_size

    again = load(half)
    assert again.dtype == torch.float32
    for name, value in stack.state_dict().items():
        assert torch.allclose(again.state_dict()[name], value, rtol=1e-3, atol=1e-6), name

    with torch.no_grad():
        stack.pairs[0].f.bias[0] = 1e5
    with pytest.raises(ValueError, match="f.bias hold numbers above 65504"):
        save(stack, tmp_path / "c.safetensors", half=True)
    assert not (tmp_path / "c.safetensors").exists()
