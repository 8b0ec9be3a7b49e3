"""Joint stacks: joining and separating, prediction by hand, files, one modality, the 2015 rule."""

import copy
import json

import pytest
import torch

from gendae import complete, load, save
from gendae.completion.completer import Completer
from gendae.completion.inpainting import Inpainter
from gendae.corruption import FlipNoise, GaussianNoise
from gendae.data.multimodal import Multimodal
from gendae.inference import TargetPropInference
from gendae.layers.affine import Affine
from gendae.layers.pair import Pair
from gendae.models.architectures import deep_autoencoder, joint_autoencoder
from gendae.models.joint import JointStack
from gendae.models.modalities import EachModality, Junction, Modality
from gendae.models.settings import Settings
from gendae.priors.gaussian import GaussianPrior
from gendae.registry import build, describe
from gendae.rules.kl import KLRule
from gendae.rules.loops import ShortAndLongLoops
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.targetprop import TargetPropRule
from gendae.rules.variational_em import VariationalEMRule
from tests.conftest import at

NAN = torch.nan
YES = True
NO = False


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def two(top=(5,), **options):
    """An image with a code of 6 units, and a label of 3 classes."""
    torch.manual_seed(0)
    members = {"image": {"sizes": [8, 6]}, "label": {"sizes": [3], "kind": "onehot"}}
    return joint_autoencoder(members, list(top), **options).double()


def three(top=(7, 5), **options):
    """An image under two pairs, a sound under one, and a label."""
    torch.manual_seed(0)
    members = {
        "image": {"sizes": [8, 6, 4]},
        "sound": {"sizes": [5, 3], "kind": "real", "activations": ["relu"]},
        "label": {"sizes": [3], "kind": "onehot"},
    }

    return joint_autoencoder(members, list(top), **options).double()


def values(n=4):
    g = seeded(1)
    return {
        "image": torch.rand(n, 8, generator=g),
        "sound": torch.randn(n, 5, generator=g),
        "label": torch.arange(n) % 3,
    }


def affine(layer, h):
    return h @ layer.weight.T + layer.bias


# -- joining and separating -----------------------------------------------------------------------


def test_join_and_separate_are_inverse():
    stack = three()
    given = values()
    x, observed = stack.join({name: given[name] for name in ("label", "sound", "image")})

    assert x.dtype == torch.float64
    assert observed.all()

    parts = stack.separate(x)
    assert list(parts) == ["image", "sound", "label"]
    assert torch.equal(parts["image"], given["image"].double())
    assert torch.equal(parts["sound"], given["sound"].double())
    assert torch.equal(parts["label"], torch.eye(3)[given["label"]].double())
    assert torch.equal(stack.join(parts)[0], x)
    assert stack.labels == ["label"]


def test_rows_of_nan_and_label_minus_one_and_names_left_out_are_missing():
    stack = three()
    given = values()
    given["image"][1] = NAN
    given["label"] = torch.tensor([0, 1, -1, 2])
    x, observed = stack.join({"image": given["image"], "label": given["label"]})

    assert observed.tolist() == [[YES, NO, YES], [NO, NO, YES], [YES, NO, NO], [YES, NO, YES]]
    assert not x[1, :8].any()
    assert not x[:, 8:13].any()
    assert not x[2, 13:].any()
    assert torch.isfinite(x).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "all modalities are missing; give at least one of image, sound, label"),
        (
            {"face": torch.rand(2, 8)},
            "'face' is no modality of this model; it has image, sound, label",
        ),
        (
            {"image": torch.rand(2, 7)},
            r"image has shape \(2, 7\).*image 8 pixels, sound 5 real, label 3 onehot",
        ),
        (
            {"image": torch.full((2, 8), 9.0)},
            "image holds values from 9 to 9; pixels lie in .*sound 5 real",
        ),
        ({"label": torch.tensor([0, 3])}, "label holds labels from 0 to 3.*label 3 onehot"),
        ({"label": torch.tensor([0, -2])}, "label holds labels from -2 to 0"),
        ({"sound": torch.tensor([[NAN, 0, 0, 0, 0]])}, "sound holds 1 NaN or infinite values"),
        (
            {"image": torch.rand(2, 8), "sound": torch.rand(3, 5)},
            "numbers of rows: {'image': 2, 'sound': 3}",
        ),
        (
            {"image": torch.tensor([[0.0] * 8, [NAN] * 8]), "label": torch.tensor([1, -1])},
            r"missing in 1 rows \(first: row 1\); at least one of image, sound, label",
        ),
    ],
)
def test_what_cannot_be_joined(given, words):
    with pytest.raises(ValueError, match=words) as error:
        three().join(given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: JointStack({}), "a JointStack needs at least one modality"),
        (lambda: JointStack({"a": Modality(3), "b": Modality(2)}), "needs at least one Pair"),
        (
            lambda: JointStack(
                {"a": Modality(3), "b": Modality(2)}, [Pair(Affine(5, 4), Affine(4, 5))]
            ),
            r"top\[0\] is a Pair; a Junction joins 2 modalities",
        ),
        (
            lambda: JointStack(
                {"a": Modality(3), "b": Modality(2)}, [Junction(Affine(6, 4), Affine(4, 5))]
            ),
            r"\[3, 2\], together 5, or 7",
        ),
        (
            lambda: JointStack(
                {"z": Modality(3, "latent"), "b": Modality(2)},
                [Junction(Affine(5, 4), Affine(4, 5))],
            ),
            "latent modalities come after",
        ),
        (
            lambda: JointStack(
                {"a": Modality(3), "b": Modality(2)},
                [Junction(Affine(7, 5), Affine(5, 5)), Junction(Affine(7, 5), Affine(5, 5))],
            ),
            "Junction",
        ),
        (lambda: two().index("face"), "'face' is no modality of this model; it has image, label"),
        (lambda: two().widths(2), "level=2: modalities are apart at levels 0 .. 1"),
        (
            lambda: joint_autoencoder({"image": {"sizes": [8], "kind": "sound"}}),
            "kind of 'image'='sound'",
        ),
        *(
            (
                lambda given=given: joint_autoencoder({"image": given}),
                rf"modality 'image': sizes={words} is no list of widths",
            )
            for given, words in [
                ({"kind": "pixels"}, "None"),
                ({"sizes": []}, r"\[\]"),
                ({"sizes": 784}, "784"),
            ]
        ),
        (
            lambda: joint_autoencoder({"image": {"sizes": [8, 6], "colour": 3}}),
            "modality 'image': .*colour",
        ),
        (
            lambda: two().predict({"label": torch.tensor([1])}, "label"),
            "all modalities are missing; give at least one of image, label",
        ),
        (lambda: two().predict({"image": torch.rand(2, 8)}, "face"), "'face' is no modality"),
        (lambda: two().predict({"face": torch.rand(2, 8)}, "label"), "'face' is no modality"),
        (lambda: two(top=()).predict({"image": torch.rand(2, 8)}, "label"), "top"),
    ],
)
def test_bad_stacks_and_predictions(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_slices_masks_and_replacement_follow_the_level():
    stack = three()
    assert (stack.level, stack.depth) == (2, 4)
    assert [stack.widths(level) for level in range(3)] == [[8, 5, 3], [6, 3, 3], [4, 3, 3]]
    assert stack.sizes == [16, 12, 10, 7, 5]

    observed = torch.tensor([[YES, NO, YES]])
    assert stack.spread(observed, 2).tolist() == [[YES] * 4 + [NO] * 3 + [YES] * 3]

    h = torch.rand(1, 10)
    sound = torch.rand(1, 3)

    assert torch.equal(
        stack.replace(h, 2, {"sound": sound}), torch.cat([h[:, :4], sound, h[:, 7:]], 1)
    )


# -- up, down and across, by hand -----------------------------------------------------------------


def by_hand(stack, x, observed, bits=YES):
    """Codes h_J, h_{J+1}, h_L and the top's reconstruction of the codes of `three`, in float64."""
    p1, p2 = stack.modalities["image"].pairs
    (s1,) = stack.modalities["sound"].pairs
    junction, upper = stack.top
    m = x[:, :8]
    s = x[:, 8:13]
    y = x[:, 13:]
    codes = torch.cat([affine(p2.f, affine(p1.f, m).tanh()).tanh(), affine(s1.f, s).relu(), y], 1)
    on = observed.double()
    shown = codes * torch.cat(
        [on[:, :1].expand(-1, 4), on[:, 1:2].expand(-1, 3), on[:, 2:].expand(-1, 3)], 1
    )
    h3 = affine(junction.f, torch.cat([shown, on], 1) if bits else shown).relu()
    h4 = affine(upper.f, h3).relu()
    a = affine(junction.g, affine(upper.g, h4).relu())

    return codes, h3, h4, torch.cat([a[:, :4].tanh(), a[:, 4:7].relu(), a[:, 7:].softmax(1)], 1)


@pytest.mark.parametrize("bits", [YES, NO])
def test_the_way_up_with_masks_and_the_loop_are_the_formulas(bits):
    """A deep top over modalities of several depths and kinds, with or without missingness bits."""
    stack = three(missingness=bits)
    given = values()
    given["label"][0] = -1
    given["sound"][1] = NAN
    x, observed = stack.join(given)

    assert stack.junction.f.sees_mask is bits

    codes, h3, h4, r = by_hand(stack, x, observed, bits)
    h = stack.feedforward(x, observed)

    assert torch.equal(h[0], x)
    for layer, expected in zip(h[2:], (codes, h3, h4), strict=True):
        assert torch.allclose(layer, expected)
    assert torch.allclose(stack.loop(codes, observed), r)

    everything = torch.ones(4, 3, dtype=torch.bool)
    assert torch.allclose(stack.encode(x)[4], by_hand(stack, x, everything, bits)[2])
    assert torch.allclose(stack.loop(codes), by_hand(stack, x, everything, bits)[3])
    if not bits:
        assert torch.allclose(stack.encode(x)[3][0], h3[0])  # a label of zeros is a missing one


@pytest.mark.parametrize("name", ["image", "sound", "label"])
def test_prediction_is_algorithm_4(name):
    stack = three()
    given = values()
    given["label"][3] = -1
    given["image"][2] = NAN

    if name == "sound":
        given["image"][2] = 0.5

    others = {key: value for key, value in given.items() if key != name}
    x, observed = stack.join(others)
    image, sound, label = by_hand(stack, x, observed)[3].split([4, 3, 3], 1)
    p1, p2 = stack.modalities["image"].pairs
    (s1,) = stack.modalities["sound"].pairs

    expected = {
        "image": affine(p1.g, affine(p2.g, image).tanh()).sigmoid(),
        "sound": affine(s1.g, sound),
        "label": label,
    }
    predicted = stack.predict(given, name)

    assert torch.allclose(predicted, expected[name])

    # what is given of the predicted modality has no influence
    assert torch.equal(predicted, stack.predict(others, name))


def test_predictions_do_not_depend_on_the_batch():
    stack = two()
    image = torch.rand(1203, 8)
    predicted = stack.predict({"image": image}, "label")
    assert predicted.shape == (1203, 3)
    assert torch.allclose(predicted[990:1010], stack.predict({"image": image[990:1010]}, "label"))
    assert stack.predict({"image": image[:0]}, "label").shape == (0, 3)


def test_without_a_top_the_prior_alone_joins_the_codes():
    stack = two(top=())
    x = torch.cat([torch.rand(60, 8), torch.eye(3)[torch.arange(60) % 3]], 1).double()

    assert (stack.junction, stack.level, stack.depth, stack.sizes) == (None, 1, 1, [11, 9])

    codes = stack.lower(x)[-1]
    assert torch.equal(stack.loop(codes), codes)
    assert torch.equal(codes[:, 6:], x[:, 8:])

    stack.prior.fit(codes.detach())
    completed = complete(stack, {"image": x[:5, :8]}, completer=Completer.map(3), seed=0).values

    assert torch.equal(completed["image"], x[:5, :8])
    assert completed["label"].shape == (5, 3)


# -- files ----------------------------------------------------------------------------------------


def of_any_name():
    label = {"sizes": [3], "kind": "onehot"}
    return joint_autoencoder({"type": {"sizes": [8, 6]}, "label": label}, [4]).double()


@pytest.mark.parametrize(
    "make",
    [two, three, lambda: three(missingness=NO), lambda: two(top=()), of_any_name],
    ids=["two", "three", "no missingness", "no top", "any name"],
)
def test_files_keep_architecture_weights_and_predictions(tmp_path, make):
    stack = make().float()
    given = {"type": values()["image"], **values()}
    given = {name: given[name] for name in stack.names}
    stack.settings = Settings(completer=Completer.map(4))
    plain = json.loads(json.dumps(describe(stack)))

    assert describe(build(plain)) == plain

    again = load(save(stack, tmp_path / "m.safetensors"))
    assert type(again) is JointStack
    assert again.described() == stack.described()
    assert again.names == stack.names
    assert again.settings.completer.rounds == 4

    x, _ = stack.join(given)
    assert all(torch.equal(a, b) for a, b in zip(stack.encode(x), again.encode(x), strict=True))
    for name in stack.names if stack.top else ():
        assert torch.equal(again.predict(given, name), stack.predict(given, name))


def test_copies_keep_modalities_and_pairs_together():
    stack = copy.deepcopy(two())
    assert stack.modalities["image"].pairs[0].f is stack.pairs[0].f.maps[0]
    assert stack.top[0].f is stack.junction.f.f
    assert len(list(stack.parameters())) == 8


# -- one modality is a stack ----------------------------------------------------------------------


def same(split):
    """A plain stack, and a joint one of equal weights whose last pairs are its top."""
    torch.manual_seed(3)
    plain = deep_autoencoder([8, 6, 5, 4], noise=0.3, prior=GaussianPrior("full", 1.0))
    plain.prior.fit(plain.encode(torch.rand(40, 8))[-1].detach())
    pairs = copy.deepcopy(list(plain.pairs))
    joint = JointStack(
        {"image": Modality(8, "pixels", pairs[:split])}, pairs[split:], copy.deepcopy(plain.prior)
    )

    return plain, joint


@pytest.mark.parametrize("split", [0, 2, 3])
def test_one_modality_is_its_stack_bit_for_bit(split):
    plain, joint = same(split)
    x, mask = joint.join({"image": torch.rand(6, 8)})
    h = plain.encode(x)

    for layers in (joint.encode(x), joint.feedforward(x, mask)):
        assert all(torch.equal(a, b) for a, b in zip(h, layers, strict=True))
    assert torch.equal(joint.decode(h[-1]), plain.decode(h[-1]))
    assert torch.equal(joint.log_joint(h), plain.log_joint(h))
    assert torch.equal(joint.log_q(h), plain.log_q(h))
    assert list(joint.state_dict()) == list(plain.state_dict())
    assert joint.junction is None


def printed(stack):
    """Algorithm 2."""
    return TargetPropRule(stack, ShortAndLongLoops())


def step_of(stack, rule, x):
    rule = rule(stack)
    optimizer = rule.configure_optimizers()
    sum(rule.losses((x,), at(5)).values()).backward()
    optimizer.step()

    return stack.state_dict()


@pytest.mark.parametrize("rule", [VariationalEMRule, printed, KLRule])
@pytest.mark.parametrize("split", [0, 2])
def test_a_training_step_on_one_modality_is_that_on_its_stack(rule, split):
    plain, joint = same(split)
    x = torch.rand(20, 8)
    before = copy.deepcopy(plain.state_dict())
    a = step_of(plain, rule, x)
    b = step_of(joint, rule, x)

    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["pairs.0.f.weight"], before["pairs.0.f.weight"])


def test_the_helper_makes_one_modality_a_plain_stack_too():
    torch.manual_seed(1)
    members = {"image": {"sizes": [8, 6], "activations": ["softplus"]}}
    joint = joint_autoencoder(members, [4], activation="sigmoid")
    torch.manual_seed(1)
    plain = deep_autoencoder([8, 6, 4])

    assert [pair.g.activation for pair in joint.pairs] == [
        pair.g.activation for pair in plain.pairs
    ]

    x = torch.rand(3, 8)
    assert torch.equal(joint.reconstruct(x), plain.reconstruct(x))


# -- the rule of 2015 -----------------------------------------------------------------------------


def rule_of_2015():
    members = {
        "image": {"sizes": [64, 60], "activations": ["softplus"]},
        "label": {"sizes": [10], "kind": "onehot"},
    }
    stack = joint_autoencoder(members, [40], activation="linear")
    quiet = GaussianNoise(0.3)
    flips = FlipNoise(0.5, "binary")
    noise = [
        EachModality([quiet, None], [64, 10]),
        EachModality([quiet, flips], [60, 10]),
        GaussianNoise(0.1),
    ]
    inpainter = Inpainter(5, TargetPropInference(15, 0.4, 0.2), chains=1)
    stack.settings = Settings(inpainter=inpainter)
    rates = Rates(f=[1e-4, 2e-3], g=4e-3, hold=0.3)

    return VariationalEMRule(stack, TargetPropInference(5), corruption=noise, rates=rates)


def test_variational_em_learns_to_predict_the_label_of_a_digit(digits):
    """From below 10 % of the labels to about 70 %, through the stack's own inpainter."""
    data = Multimodal(digits, ["image", "label"])
    x = data.split("train").x
    valid = data.split("valid").x
    rule = rule_of_2015()
    stack = rule.stack
    inpainter = stack.settings.inpainter

    def accuracy():
        completed = complete(stack, {"image": valid[:, :64]}, seed=0)
        assert stack.settings.inpainter is inpainter
        assert torch.equal(completed.values["image"], valid[:, :64])
        right = completed.values["label"].argmax(1) == valid[:, 64:].argmax(1)
        return right.double().mean().item()

    optimizer = rule.configure_optimizers()
    start = accuracy()
    g = seeded(0)

    for _ in range(250):
        rows = torch.randint(len(x), (50,), generator=g)
        losses = rule.losses((x[rows],), Moment(generator=g))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    assert start < 0.3
    assert accuracy() > 0.5
