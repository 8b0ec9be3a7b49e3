"""Files whose bytes are whole and whose content is hostile: odd tensors, states, descriptions."""

import contextlib
import copy
import io
import json
import resource
import subprocess
import sys
import zipfile
from itertools import product

import pytest
import torch
from safetensors.torch import save_file

from gendae import cli, generate, load
from gendae.models.architectures import deep_autoencoder
from gendae.models.stack import MEASURED
from gendae.priors.autoencoder import AutoencoderPrior, Learning
from gendae.priors.factorial import FactorialPrior
from gendae.priors.gaussian import GaussianPrior
from gendae.priors.parzen import ParzenPrior
from gendae.registry import describe
from gendae.rules.kl import KLRule
from gendae.rules.rates import Rates
from gendae.rules.targetprop import TargetPropRule
from gendae.storage import model_file
from gendae.storage.archive import WholeFileIO
from gendae.storage.description import described
from gendae.storage.owned import DEEPEST
from gendae.storage.sealed import CheckpointError, read, seal
from tests import roles
from tests.storage import test_damage
from tests.storage.test_damage import refused, resume

good = test_damage.good

WEIGHT = "stack.pairs.0.f.weight"
MEAN = "stack.prior.mean"


@pytest.fixture
def edited(good, tmp_path):
    """Writes a sealed .ckpt with an edit."""

    def write(edit):
        content = read(good / "m.ckpt")
        edit(content)
        path = tmp_path / "m.ckpt"
        WholeFileIO().save_checkpoint(content, path)
        return path

    return write


# -- tensors ------------------------------------------------------------------------------------


def quantised(value):
    return torch.quantize_per_tensor(value, 0.1, 0, torch.quint8)


class Named(torch.Tensor):
    """A tensor of a class of one's own."""


REFUSED = {
    "expanded": lambda t: t.flatten()[:1].clone().expand(t.shape),
    "expanded beyond all memory": lambda t: torch.zeros(1).expand([2**20] * max(t.ndim, 1)),
    "overlapping": lambda t: torch.zeros(len(t) ** (t.ndim - 1)).as_strided(
        t.shape, [1] * (t.ndim - 1) + [0]
    ),
    "sparse": lambda t: t.to_sparse(),
    "meta": lambda t: t.to("meta"),
    "quantised": quantised,
    "nested": lambda t: torch.nested.nested_tensor([t, t]),
}
STRANGE = {
    "turned": lambda t: t.T.contiguous().T,
    "a part of another": lambda t: torch.cat([t, t])[: len(t)],
    "reversed strides": lambda t: t.flip(0).flip(0),
    "a parameter": lambda t: torch.nn.Parameter(t),
}
PLACES = {
    "weight": lambda c, f: c["state_dict"].update({WEIGHT: f(c["state_dict"][WEIGHT])}),
    "prior": lambda c, f: c["state_dict"].update({MEAN: f(c["state_dict"][MEAN])}),
    "optimizer": lambda c, f: c["optimizer_states"][0]["state"][0].update(
        exp_avg=f(c["optimizer_states"][0]["state"][0]["exp_avg"])
    ),
    "codes": lambda c, f: c.update(recent_codes=f(torch.zeros(9, 6))),
    "generator": lambda c, f: c.update(generator=f(torch.zeros(5056))),
    "callback": lambda c, f: c.update(callbacks={"Mine": {"values": [f(torch.zeros(9, 6))]}}),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", REFUSED)
def test_no_tensor_is_used_that_is_not_whole_in_its_own_memory(edited, kind, place):
    path = edited(lambda c: PLACES[place](c, REFUSED[kind]))

    refused(load, path)
    if place == "optimizer":
        refused(resume, path)
    else:
        refused(TargetPropRule.load_from_checkpoint, path)


@pytest.mark.parametrize("kind", STRANGE)
def test_tensors_of_any_strides_become_contiguous_and_are_their_own(edited, good, kind):
    path = edited(lambda c: PLACES["weight"](c, STRANGE[kind]))
    weight = read(path)["state_dict"][WEIGHT]

    assert type(weight) is torch.Tensor and weight.is_contiguous()
    assert weight.untyped_storage().nbytes() == 4 * weight.numel()
    assert torch.equal(weight, read(good / "m.ckpt")["state_dict"][WEIGHT])
    resume(path)


def test_tensors_that_share_their_memory_are_parted(edited):
    def share(content):
        state = content["optimizer_states"][0]["state"][0]
        state["exp_avg_sq"] = state["exp_avg"] = content["state_dict"][WEIGHT]

    content = read(edited(share))
    state = content["optimizer_states"][0]["state"][0]
    tensors = (state["exp_avg"], state["exp_avg_sq"], content["state_dict"][WEIGHT])

    assert len({tensor.data_ptr() for tensor in tensors}) == 3


def nest(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def doubled(times):
    """A list of 2^times entries, of which a pickle stores one of each depth."""
    value = ["x"]
    for _ in range(times):
        value = [value, value]
    return value


BOMBS = {
    "nested": nest(DEEPEST + 1),
    "nested beyond Python's stack": nest(3000),
    "repeated": doubled(40),
    "one memory in many tensors": [torch.zeros(2000).narrow(0, 0, 2000) for _ in range(1)] * 2000,
}


@pytest.mark.parametrize("kind", BOMBS)
def test_content_that_grows_beyond_its_file(tmp_path, kind):
    path = tmp_path / "m.ckpt"
    sys.setrecursionlimit(20_000)
    try:
        torch.save({"gendae": {}, "bomb": BOMBS[kind]}, path)
    finally:
        sys.setrecursionlimit(1000)

    refused(read, path)


def test_a_list_that_holds_itself_is_refused(tmp_path):
    ring = []
    ring.append(ring)
    torch.save({"gendae": ring}, tmp_path / "m.ckpt")

    refused(read, tmp_path / "m.ckpt")


def test_compressed_archives_are_refused(good, tmp_path):
    path = tmp_path / "m.ckpt"
    with zipfile.ZipFile(good / "m.ckpt") as old, zipfile.ZipFile(path, "w", 8) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    refused(load, path, "compressed")

    path.write_bytes(seal(path.read_bytes()))
    refused(load, path, "compressed")


# -- what Lightning keeps -----------------------------------------------------------------------


def optimizer(c):
    return c["optimizer_states"][0]


def fit_loop(c):
    return c["loops"]["fit_loop"]


def callback(**state):
    """The state of a ModelCheckpoint, with what is odd in it."""
    usual = {
        "best_model_path": "",
        "best_model_score": None,
        "best_k_models": {},
        "dirpath": "",
        "kth_best_model_path": "",
        "kth_value": torch.tensor(0.0),
        "last_model_path": "",
    }
    return lambda c: c["callbacks"].update({"ModelCheckpoint{}": {**usual, **state}})


ODD = {
    "no loops": lambda c: c.update(loops={}),
    "loops of a list": lambda c: c.update(loops=[]),
    "a loop of a number": lambda c: c["loops"].update(fit_loop=3),
    "an empty loop": lambda c: c["loops"].update(fit_loop={}),
    "a loop without progress": lambda c: fit_loop(c).pop("epoch_progress"),
    "a count of text": lambda c: fit_loop(c)["epoch_progress"]["total"].update(ready="1"),
    "a count below 0": lambda c: fit_loop(c)["epoch_progress"]["current"].update(completed=-1),
    "a count of None": lambda c: fit_loop(c)["epoch_loop.batch_progress"].update(total=None),
    "no state of the loop": lambda c: fit_loop(c).update(state_dict=None),
    "a position of text": lambda c: fit_loop(c)["state_dict"].update(
        combined_loader=[{"epoch": "1", "position": 0}]
    ),
    "no position": lambda c: fit_loop(c)["state_dict"].update(combined_loader=[{"epoch": 0}]),
    "a position below 0": lambda c: fit_loop(c)["state_dict"].update(
        combined_loader=[{"epoch": 0, "position": -1}]
    ),
    "a position of a list": lambda c: fit_loop(c)["state_dict"].update(combined_loader=[[]]),
    "positions of a number": lambda c: fit_loop(c)["state_dict"].update(combined_loader=3),
    "no version": lambda c: c.pop("pytorch-lightning_version"),
    "a version of text": lambda c: c.update({"pytorch-lightning_version": "new"}),
    "an old version": lambda c: c.update({"pytorch-lightning_version": "0.9.0"}),
    "an epoch of text": lambda c: c.update(epoch="3"),
    "a step of None": lambda c: c.update(global_step=None),
    "callbacks of a list": lambda c: c.update(callbacks=[1]),
    "a callback's state of text": lambda c: c.update(callbacks={"A": "b"}),
    "a removable file outside": callback(kth_best_model_path="a/../../etc/passwd"),
    "a remote file": callback(best_model_path="s3://bucket/m.ckpt"),
    "a score of text": callback(kth_value="1"),
    "models of a list": callback(best_k_models=[1]),
    "schedulers of a number": lambda c: c.update(lr_schedulers=3),
    "optimizers of a dict": lambda c: c.update(optimizer_states={}),
    "an optimizer of a list": lambda c: c.update(optimizer_states=[[]]),
    "groups of text": lambda c: optimizer(c).update(param_groups="groups"),
    "no state": lambda c: optimizer(c).pop("state"),
    "a state of a list": lambda c: optimizer(c)["state"].update({0: []}),
    "an index of text": lambda c: optimizer(c)["state"].update({"a": {}}),
    "an index below 0": lambda c: optimizer(c)["state"].update({-1: optimizer(c)["state"][0]}),
    "a moment less": lambda c: optimizer(c)["state"][0].pop("exp_avg"),
    "a moment more": lambda c: optimizer(c)["state"][0].update(extra=torch.zeros(())),
    "a moment of None": lambda c: optimizer(c)["state"][0].update(exp_avg=None),
    "a moment of one number": lambda c: optimizer(c)["state"][0].update(exp_avg=torch.zeros(())),
    "a step below 0": lambda c: optimizer(c)["state"][0].update(step=torch.tensor(-1.0)),
    "steps of text": lambda c: optimizer(c)["state"][0].update(step="3"),
    "complex moments": lambda c: optimizer(c)["state"][0].update(
        exp_avg=torch.zeros(12, 64, dtype=torch.complex64)
    ),
    "a rate of text": lambda c: optimizer(c)["param_groups"][0].update(lr="1"),
    "a first rate of None": lambda c: optimizer(c)["param_groups"][0].update(initial_lr=None),
    "a rate below 0": lambda c: optimizer(c)["param_groups"][0].update(lr=-1.0),
    "betas of one": lambda c: optimizer(c)["param_groups"][0].update(betas=(0.9,)),
    "betas above 1": lambda c: optimizer(c)["param_groups"][0].update(betas=(0.9, 2.0)),
    "parameters in another order": lambda c: optimizer(c)["param_groups"][0]["params"].reverse(),
    "parameters of text": lambda c: optimizer(c)["param_groups"][0].update(params=["a", "b"]),
    "a generator of text": lambda c: c.update(generator="x"),
    "a generator of zeros": lambda c: c.update(generator=torch.zeros(5056, dtype=torch.uint8)),
    "codes of one dimension": lambda c: c.update(recent_codes=torch.zeros(3)),
    "a flag of text": lambda c: c.update(prior_due="yes"),
    "facts of a list": lambda c: c["gendae"].update(facts=[1]),
    "seconds of text": lambda c: c["gendae"]["facts"].update(seconds="x"),
    "an enormous seed": lambda c: c["gendae"]["facts"].update(seed=10**5000),
    "a tensor in the facts": lambda c: c["gendae"]["facts"].update(x=torch.zeros(3)),
    "a deep stack": lambda c: c["hyper_parameters"].update(stack={"a": nest(80)}),
    "a stack of text": lambda c: c["hyper_parameters"].update(stack="x"),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_training_with_odd_parts_does_not_go_on(edited, kind):
    with pytest.raises(CheckpointError) as caught:
        resume(edited(ODD[kind]))

    message = str(caught.value)
    assert "\n" not in message and len(message) < 600


@pytest.mark.parametrize("marks", [{"capturable": True}, {"fused": None, "foreach": True}])
def test_how_another_device_computes_updates_is_not_taken_over(edited, marks):
    resume(edited(lambda c: [group.update(marks) for group in optimizer(c)["param_groups"]]))


# -- descriptions -------------------------------------------------------------------------------


def written(path, content, tensors, text=None):
    """A .safetensors with any description, its checksums right."""
    tensors = {name: value for name, value in tensors.items() if value.numel()}
    text = text or json.dumps({**content, "sha256": model_file.digest(tensors)})
    metadata = (model_file.FORMAT, text, model_file._sha256(text))
    save_file(tensors, path, dict(zip(model_file.METADATA, metadata, strict=True)))

    return path


def model(**content):
    stack = deep_autoencoder([8, 4])
    whole = {"stack": describe(stack), "settings": {}, "facts": {}, **content}
    return whole, stack.state_dict()


def stack_with(**arguments):
    return model(stack={**describe(deep_autoencoder([8, 4])), **arguments})


NOISE = {"type": "GaussianNoise", "sigma": 0.5}
DESCRIPTIONS = {
    "a list as facts": model(facts=[]),
    "text as settings": model(settings="none"),
    "a number as stack": model(stack=3),
    "no stack": model(stack=NOISE),
    "deep facts": model(facts={"a": nest(900)}),
    "deep settings": model(settings={"sampler": nest(200)}),
    "a data set of a list": model(facts={"dataset": ["MNIST"]}),
    "a data set of text": model(facts={"dataset": "MNIST"}),
    "a data set without type": model(facts={"dataset": {"root": "."}}),
    "a data set of another class": model(facts={"dataset": NOISE}),
    "a source of another class": model(
        facts={"dataset": {"type": "Multimodal", "source": {"type": "Stack"}}}
    ),
    "shapes of a list": model(facts={"shapes": [8, 1]}),
    "shapes of text": model(facts={"shapes": "8x1"}),
    "a shape of text": model(facts={"shapes": {"a": "28"}}),
    "a shape of three": model(facts={"shape": [1, 2, 4]}),
    "an enormous shape": model(facts={"shape": [10**12, 1]}),
    "a kind of a list": model(facts={"kind": []}),
    "a seed of text": model(facts={"seed": "x"}),
    "a truth as count": model(facts={"epochs": True}),
    "an enormous count": model(facts={"epochs": 2**70}),
    "an inpainter of another class": model(settings={"inpainting": NOISE}),
    "a sampler of another class": model(settings={"sampler": NOISE}),
    "a completer of text": model(settings={"completer": "chain"}),
    "samples of text": model(settings={"samples": "many"}),
    "a prior that is a rule's": stack_with(prior={"type": "Rates"}),
    "a prior that names code": stack_with(
        prior={"type": "Rates", "decline": {"class_path": "os.abort"}}
    ),
    "a prior of text": stack_with(prior="flat"),
    "no pairs": stack_with(pairs=3),
    "an endless name": stack_with(type="Stack" * 100_000),
}


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_a_description_of_another_kind(tmp_path, kind):
    refused(load, written(tmp_path / "m.safetensors", *DESCRIPTIONS[kind]))


TEXTS = {
    "deep": "[" * 990 + "]" * 990,
    "deeper than the stack": '{"a":' * 200_000,
    "a long number": '{"sha256": ' + "9" * 5000 + "}",
    "a list": "[]",
    "nothing": "null",
    "no text": "",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_description_that_cannot_be_read(tmp_path, kind):
    _, tensors = model()
    refused(load, written(tmp_path / "m.safetensors", {}, tensors, TEXTS[kind]))


LIMITED = """
import resource, sys, time
from gendae import load
load(sys.argv[1])

resident = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (resident + 600 * 2**20,) * 2)
for path in sys.argv[2:]:
    start = time.process_time()
    try:
        load(path)
        print("loaded", path)
    except ValueError as error:
        took = time.process_time() - start
        print(type(error).__name__ if took < 5 else took)

print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - resident < 200 * 2**20)
"""


def widened(width, init="normal", prior=None):
    stack = describe(deep_autoencoder([8, 4]))
    pair = stack["pairs"][0]
    pair["f"].update(out_features=width, init=init)
    pair["g"].update(in_features=width, init=init)
    if prior is not None:
        stack["prior"] = prior
    return stack


def modalities(width):
    """A joint model with a modality that has no layers, and no weights."""
    pair = describe(deep_autoencoder([8, 4]))["pairs"][0]
    image = {"type": "Modality", "width": 8, "kind": "real", "pairs": [pair]}
    label = {"type": "Modality", "width": width, "kind": "onehot", "pairs": []}
    return {"type": "JointStack", "modalities": {"a": image, "b": label}, "top": []}


AUTOENCODER = {"type": "AutoencoderPrior", "hidden": [16_000, 16_000]}
MANY = {"type": "AutoencoderPrior", "hidden": [1] * 100_000}
LARGE = [
    widened(16_000_000),
    widened(10**12),
    widened(16_000_000, "orthogonal"),
    widened(4, prior=AUTOENCODER),
    widened(4, prior=MANY),
    modalities(10**8),
    modalities(10**11),
]


def test_what_a_file_declares_is_compared_with_what_it_holds_before_it_is_built(tmp_path):
    """Within 600 MB beside an idle process, and 5 seconds of computing for each file."""
    files = [written(tmp_path / "good.safetensors", *model())]
    for number, stack in enumerate(LARGE):
        files.append(written(tmp_path / f"{number}.safetensors", *model(stack=stack)))

    command = [sys.executable, "-c", LIMITED, *map(str, files)]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    assert made.stdout.split() == ["CheckpointError"] * len(LARGE) + ["True"], made.stderr


def test_load_from_checkpoint_builds_no_more_than_a_file_holds(edited):
    path = edited(lambda content: content["hyper_parameters"].update(stack=widened(16_000_000)))
    refused(TargetPropRule.load_from_checkpoint, path, "it declares more than")


def test_load_from_checkpoint_takes_other_arguments_for_the_rule_of_the_file(good):
    refused(KLRule.load_from_checkpoint, good / "m.ckpt", "trained, not KLRule")
    rule = TargetPropRule.load_from_checkpoint(good / "m.ckpt", rates=Rates(0.5), log_every=7)

    assert (rule.rates.f, rule.ledger.every) == (0.5, 7)
    assert torch.equal(rule.stack.pairs[0].f.weight, load(good / "m.ckpt").pairs[0].f.weight)


@pytest.mark.parametrize("place", ["s3://bucket/m.ckpt", io.BytesIO(b"")])
def test_load_from_checkpoint_reads_files_of_this_machine(place):
    with pytest.raises(ValueError, match="a file of this machine is needed"):
        TargetPropRule.load_from_checkpoint(place)


PRIORS = [
    GaussianPrior("full"),
    FactorialPrior(),
    ParzenPrior(),
    AutoencoderPrior([6], 5, learning=Learning(epochs=1)),
]


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: type(prior).__name__)
def test_numbers_of_any_shape_are_refused_or_do_what_they_are_for(tmp_path, prior):
    """The shapes of a prior, and of what was measured, are free in a state dict."""
    stack = deep_autoencoder([6, 4], prior=prior)
    stack.prior.fit(torch.rand(20, 4))
    stack.fit_residuals(torch.rand(20, 6))
    content = {"stack": describe(stack), "settings": {}, "facts": {}}
    whole = stack.state_dict()

    path = written(tmp_path / "m.safetensors", content, whole)
    assert generate(load(path), 2, seed=0).shape == (2, 6)

    names = [name for name in whole if name.startswith("prior.") or name in MEASURED]
    for name, shape in product(names, [(), (1,), (3,), (2, 2), (3, 4), (4, 3), (1, 4, 4)]):
        path = written(path, content, {**whole, name: torch.rand(shape)})
        try:
            trial = load(path)
        except CheckpointError:
            continue
        assert generate(trial, 2, seed=0).shape == (2, 6), (name, shape)
        trial.loop_noise(0)


def numbers(part, path=()):
    """Places of the numbers of a description."""
    if isinstance(part, dict | list):
        entries = part.items() if isinstance(part, dict) else enumerate(part)
        for key, value in entries:
            yield from numbers(value, (*path, key))
    elif isinstance(part, int | float) and not isinstance(part, bool):
        yield path


def replaced(description, path, value):
    description = copy.deepcopy(description)
    *way, last = path
    part = description
    for key in way:
        part = part[key]
    part[last] = value
    return description


@pytest.mark.exhaustive
@pytest.mark.parametrize("large", [10**8, 2**40])
def test_no_number_of_a_description_takes_memory(large):
    """Each number of each stack, prior, layer and rule, in turn."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for row in (
        *roles.STACKS,
        *roles.BAND_STACKS,
        *roles.CLASSIFIERS,
        *roles.PRIORS,
        *roles.PAIRS,
        *roles.RULES,
    ):
        plain = describe(row.make())
        for path in numbers(plain):
            content = {"stack": replaced(plain, path, large), "settings": {}, "facts": {}}
            with contextlib.suppress(Exception):
                described(content, [torch.zeros(1000)])

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100 * 2**10


def test_what_info_prints_stays_on_its_line(tmp_path, capsys):
    facts = {"command": "a\x1b[2Jb\nfile  /etc", "note\r\x07": "\u202e\ud800 grün"}
    path = written(tmp_path / "m.safetensors", *model(facts=facts))

    assert cli.main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.splitlines())
    assert "command     a\\x1b[2Jb\\nfile  /etc" in out

    _, tensors = model()
    tensors["pairs\x1b[2J\n"] = torch.zeros(1)
    assert cli.main(["info", str(written(path, *(model()[0], tensors)))]) == 2
    assert capsys.readouterr().err.rstrip("\n").isprintable()
