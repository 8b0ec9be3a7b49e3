"""Data of several modalities, in parts and from files; labels that are inferred; whole fits."""

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from scipy import ndimage
from torch.nn.functional import one_hot

from gendae import load
from gendae.corruption import GaussianNoise
from gendae.data.images import Digits, Images
from gendae.data.multimodal import Arrays, FewLabels, Multimodal, edge_map
from gendae.models.architectures import joint_autoencoder
from gendae.registry import build, describe
from gendae.rules import prior_fit
from gendae.rules.joint import JointTargetPropRule, JointWeights
from gendae.rules.missing import Hiding, Inferring
from gendae.rules.moment import Moment
from gendae.rules.rates import Rates
from gendae.rules.targets import Hybrid
from tests.conftest import at
from tests.rules.test_base import trainer
from tests.rules.test_joint import LABELS, batch_of, by_hand, loop_of, stack_of


@pytest.mark.parametrize("shape", [(8, 8), (5, 7)])
def test_edges_are_the_magnitude_of_the_sobel_gradient(shape):
    x = torch.rand(3, *shape).mul(3.0).sub(1.0).clamp(0.0, 1.0)
    expected = []
    for image in x.double().numpy():
        gradient = (ndimage.sobel(image, axis, mode="nearest") / 4 for axis in (0, 1))
        expected.append(np.hypot(*gradient))
    assert np.max(expected) > 1.0

    edges = edge_map(x.flatten(1), shape)
    assert np.allclose(edges, np.minimum(expected, 1.0).reshape(3, -1), atol=1e-6)


@pytest.fixture
def odd(tmp_path):
    """Thirty images of 5 x 7 pixels with labels of three classes."""
    x = torch.rand(30, 5, 7)
    y = torch.arange(30) % 3
    np.savez(tmp_path / "odd.npz", x=x.numpy(), y=y.numpy())
    np.save(tmp_path / "x.npy", x.numpy())
    return Images(str(tmp_path / "odd.npz"))


def test_parts_of_images_are_put_side_by_side(odd):
    parts = ["bottom", "right", "edges", "label", "left", "image", "top"]
    data = Multimodal(odd, parts, classes=3)
    assert data.modalities == {
        "bottom": 21,
        "right": 20,
        "edges": 35,
        "label": 3,
        "left": 15,
        "image": 35,
        "top": 14,
    }
    assert data.shapes == {
        "bottom": [3, 7],
        "right": [5, 4],
        "edges": [5, 7],
        "left": [5, 3],
        "image": [5, 7],
        "top": [2, 7],
    }
    assert data.shape == (5, 7)

    for name in ("train", "valid", "test"):
        x, _, observed = data.split(name)
        image, y, _ = odd.split(name)
        values = dict(zip(parts, x.split(list(data.modalities.values()), 1), strict=True))
        part = {key: values[key].view(-1, *shape) for key, shape in data.shapes.items()}

        assert torch.equal(torch.cat([part["top"], part["bottom"]], 1).flatten(1), image)
        assert torch.equal(torch.cat([part["left"], part["right"]], 2).flatten(1), image)
        assert torch.equal(values["image"], image)
        assert torch.equal(values["edges"], edge_map(image, (5, 7)))
        assert torch.equal(values["label"], one_hot(y, 3).float())
        assert observed.all()
        assert observed.shape == (len(image), 7)


def classes_of(x, observed, source, name="train"):
    """How many rows of each class have their label; hidden ones are 0, others the image's own."""
    labels = x[:, 64:]
    assert not labels[~observed[:, 1]].any()

    images, y, _ = source.split(name)
    truth = {tuple(image.tolist()): label for image, label in zip(images, y, strict=True)}
    kept = [truth[tuple(row.tolist())].item() for row in x[observed[:, 1], :64]]

    assert labels[observed[:, 1]].argmax(1).tolist() == kept
    assert torch.equal(labels.sum(1), observed[:, 1].float())
    assert observed[:, 0].all()

    return np.bincount(kept, minlength=10).tolist()


@pytest.mark.parametrize("share", [None, 0.2, 0.5, 0.8])
def test_few_labels_are_equally_many_of_each_class_and_repeated_to_make_up_their_share(
    digits, share
):
    data = Multimodal(digits, ["image", "label"], labelled=FewLabels(70, share))
    images = digits.split("train").x
    x, _, observed = data.split("train")
    counts = classes_of(x, observed, digits)

    assert int((~observed[:, 1]).sum()) == 1199 - 70
    if share is None:
        assert counts == [7] * 10
        assert torch.equal(x[:, :64], images)
    else:
        assert len(set(counts)) == 1
        assert observed[:, 1].float().mean().item() == pytest.approx(share, abs=0.02)
        assert torch.equal(x[:, :64].unique(dim=0), images.unique(dim=0))

    for name in ("valid", "test"):
        assert data.split(name).observed.all()
        assert torch.equal(data.split(name).x[:, 64:].argmax(1), digits.split(name).y)


def test_the_label_seed_draws_which_labels_are_kept(digits):
    kept = [
        Multimodal(digits, ["image", "label"], labelled=FewLabels(70, seed=s), seed=t)
        .split("train")
        .observed
        for s, t in ((0, 0), (0, 1), (1, 0))
    ]
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])

    order = torch.randperm(1199, generator=torch.Generator().manual_seed(1))
    first = order[digits.split("train").y[order] == 4][:7]
    assert kept[2][first, 1].all()


def test_the_supervised_baseline_sees_labelled_images_only(digits):
    data = Multimodal(digits, ["label", "image"], labelled=FewLabels(70, only=True))
    x, _, observed = data.split("train")
    assert observed.all()
    assert len(x) == 1199

    all_images = Multimodal(digits, ["label", "image"], labelled=FewLabels(70)).split("train")
    labelled = all_images.x[all_images.observed[:, 0]]
    assert torch.equal(x.unique(dim=0), labelled.unique(dim=0))

    copies = x.unique(dim=0, return_counts=True)[1]
    assert int(copies.max() - copies.min()) <= 1


#: What version 0.1 said of few labels, and what it meant.
FORMER = [
    ({"labelled": None, "label_seed": 0, "share": None, "only_labelled": False}, None),
    (
        {"labelled": 70, "label_seed": 3, "share": 0.3, "only_labelled": False},
        FewLabels(70, share=0.3, seed=3),
    ),
    (
        {"labelled": 70, "label_seed": 0, "share": None, "only_labelled": True},
        FewLabels(70, only=True),
    ),
]


@pytest.mark.parametrize(("former", "present"), FORMER)
def test_few_labels_are_built_from_what_earlier_versions_said(digits, former, present):
    data = Multimodal(digits, ["label", "top"], labelled=present, batch_size=7, seed=5)
    again = build(describe(data) | former)
    assert describe(again) == describe(data)

    for name in ("train", "valid", "test"):
        assert torch.equal(data.split(name).x, again.split(name).x)
        assert torch.equal(data.split(name).observed, again.split(name).observed)

    batch, other = (next(iter(d.train_dataloader())) for d in (data, again))
    assert torch.equal(batch.x, other.x)
    assert torch.equal(batch.observed, other.observed)
    assert len(batch.x) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"parts": ["image", "middle"]},
            "parts='middle' is unknown; accepted: image, label, top, bottom, left, right, edges",
        ),
        (
            {"parts": ["image", "image"]},
            r"parts=\['image', 'image'\]: one or several different names",
        ),
        ({"parts": []}, r"parts=\[\]: one or several"),
        ({"classes": 1}, "classes=1: a whole number >= 2"),
        ({"labelled": 70}, "labelled=70: FewLabels or None is needed"),
        ({"few": {"count": 75}}, "count=75: a multiple of 10 is needed"),
        ({"few": {"count": 0}}, "count=0: a whole number >= 1"),
        ({"few": {"count": 70, "share": 1.0}}, "share=1.0: a number between 0 and 1"),
        (
            {"parts": ["top"], "few": {"count": 70}},
            r"FewLabels\(count=70, .* needs a part 'label'; parts=\['top'\]",
        ),
        ({"parts": ["label"], "few": {"count": 70}}, "images without a label have no other part"),
        ({"few": {"count": 2000}}, "count=2000: class 0 has only 114 training images"),
        (
            {"classes": 5},
            "labels of the train images holds labels from 0 to 9; the model has 5 classes",
        ),
    ],
)
def test_impossible_parts_and_labels(digits, options, message):
    arguments = {"parts": ["image", "label"], **options}
    few = arguments.pop("few", None)

    with pytest.raises(ValueError, match=message):
        if few is not None:
            arguments["labelled"] = FewLabels(**few)
        Multimodal(digits, **arguments).split("train")


def test_labels_need_labelled_images(odd):
    bare = Images(odd.path.replace("odd.npz", "x.npy"))
    assert Multimodal(bare, ["top", "bottom"]).split("test").x.shape == (3, 35)
    with pytest.raises(ValueError, match="parts contains 'label', but the images have no labels"):
        Multimodal(bare, ["image", "label"]).split("train")


# -- files of one's own --------------------------------------------------------------------------


def files(folder, **arrays):
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        if isinstance(array, bytes):
            path.write_bytes(array)
        elif array is not None:
            np.save(path, array)

    return {name: str(folder / f"{name}.npy") for name in arrays}


def test_arrays_are_modalities_with_missing_rows(tmp_path):
    sound = np.arange(40.0).reshape(20, 2)
    image = np.random.default_rng(0).random((20, 3, 4))
    label = np.arange(20) % 4
    flags = np.arange(60).reshape(20, 3) % 2 == 0

    sound[::5] = np.nan
    image[3] = np.nan
    label[6:8] = -1
    data = Arrays(
        files(tmp_path, sound=sound, label=label, image=image, flags=flags), 0.1, 0.2, seed=3
    )

    assert data.modalities == {"sound": 2, "label": 4, "image": 12, "flags": 3}
    assert data.shapes == {"image": [3, 4]}

    order = torch.randperm(20, generator=torch.Generator().manual_seed(3)).numpy()
    for name, rows in {"test": order[:4], "valid": order[4:6], "train": order[6:]}.items():
        x, _, observed = data.split(name)

        there = np.stack([rows % 5 != 0, ~np.isin(rows, (6, 7)), rows != 3, rows >= 0], 1)
        assert np.array_equal(observed.numpy(), there)

        classes = np.eye(4)[rows % 4] * there[:, 1:2]
        whole = np.concatenate([sound[rows], classes, image[rows].reshape(-1, 12), flags[rows]], 1)
        assert np.array_equal(x.numpy(), np.nan_to_num(whole).astype(np.float32))


def with_nan(value):
    array = np.ones((20, 3))
    array[4, 1] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "files is empty: at least one modality"),
        (
            {"a": np.ones((20, 3)), "b": np.ones((19, 3))},
            r"different numbers of examples: \{'a': 20, 'b': 19\}",
        ),
        ({"a": with_nan(np.nan)}, "a holds rows that are partly NaN"),
        ({"a": with_nan(np.inf)}, "holds 1 NaN or infinite values"),
        ({"a": np.full((20, 3), np.nan)}, "20 examples have no modality at all"),
        (
            {"a": np.arange(20) - 2},
            "a holds the label -2; class indices are >= 0, and -1 is missing",
        ),
        ({"a": np.zeros(20, int)}, "a.npy: numbers of shape"),
        ({"a": np.ones(20)}, r"a.npy: numbers of shape \(n, features\), or"),
        ({"a": np.array([["a", "b"]])}, "a.npy: an array of numbers"),
        ({"a": np.ones((0, 3))}, "a.npy: an array of numbers"),
        ({"a": np.ones((20, 3), complex)}, "a.npy: an array of numbers"),
        ({"a": np.array([[{}]])}, "a.npy is damaged or not a .npy of numbers"),
        ({"a": np.ones((2, 3))}, r"Arrays train examples are none \(shape \(0, 3\)\)"),
        ({"a": b"no array"}, "a.npy is damaged or not a .npy of numbers"),
        ({"none": None}, "no such file: .*none.npy"),
    ],
)
def test_files_that_are_refused(tmp_path, arrays, message):
    error = FileNotFoundError if message.startswith("no such file") else ValueError
    with pytest.raises(error, match=message):
        Arrays(files(tmp_path, **arrays)).split("train")


# -- labels that are inferred --------------------------------------------------------------------


def confident(stack, probabilities):
    """The stack with a top that says so of each row's label."""
    stack.loop = lambda codes, there=None: stack.replace(
        codes, stack.level, {"label": torch.tensor(probabilities).double()}
    )
    return stack


def rule_of(stack, corrupt=0.0, **options):
    noise = [GaussianNoise(corrupt)] * (stack.depth + 1)
    return JointTargetPropRule(stack, noise, **options)


def test_only_confident_labels_are_filled_in_and_observed_ones_stay():
    p = [
        [0.0, 0.95, 0.05],
        [0.0, 0.95, 0.05],
        [0.92, 0.08, 0.0],
        [0.0, 0.0, 1.0],
        [0.89, 0.11, 0.0],
    ] + 2 * [[1.0, 0.0, 0.0]]
    stack = confident(stack_of(), p)
    x, there = batch_of(stack)
    filled = rule_of(stack, inferring=Inferring(0.4))._fill_in(stack.lower(x), there, at())

    expected = x.clone()
    expected[2, 6] = 1.0
    weights = there.double()
    weights[2, 1] = 0.4

    assert (filled.there != there).nonzero().tolist() == [[2, 1]]
    assert torch.equal(filled.certainty, weights)
    for level, layer in zip(filled.h, stack.lower(expected), strict=True):
        assert torch.equal(level, layer)


@pytest.mark.parametrize(
    ("ramp", "progress", "weight"),
    [(0.3, 0.0, 0.0), (0.3, 0.15, 0.4), (0.3, 0.3, 0.8), (0.3, 1.0, 0.8), (0.0, 0.0, 0.8)],
)
def test_the_weight_of_inferred_labels_grows(ramp, progress, weight):
    stack = confident(stack_of(), [[1.0, 0.0, 0.0]] * 7)
    x, there = batch_of(stack)
    rule = rule_of(stack, inferring=Inferring(0.8, ramp=ramp))
    now = at(progress=progress, update=1)
    certainty = rule._fill_in(stack.lower(x), there, now).certainty

    assert certainty[LABELS < 0, 1].tolist() == pytest.approx([weight] * 2)
    assert torch.equal(certainty[LABELS >= 0], there[LABELS >= 0].double())


def test_inferred_labels_weigh_in_the_label_s_own_term():
    stack = stack_of()
    x, there = batch_of(stack)
    guess = loop_of(stack, stack.lower(x)[-1].detach(), there)[:, 4:].argmax(1)
    filled = x.clone()
    filled[LABELS < 0, 6:] = one_hot(guess, 3).double()[LABELS < 0]
    rule = rule_of(stack, hiding=Hiding(0.0), inferring=Inferring(0.25, confidence=0.0))
    loss = rule.losses((x, there), at())["joint_label_3"]

    everything = there | torch.tensor([False, True])
    logits = by_hand(stack, stack.lower(filled)[-1], everything)[1]
    energies = -(filled[:, 6:] * logits.log_softmax(1)).sum(1)
    assert torch.allclose(loss, (energies * torch.where(LABELS < 0, 0.25, 1.0)).mean())


def losses_of(rule, batch, **moment):
    return {name: value.item() for name, value in rule.losses(batch, at(**moment)).items()}


def test_nothing_changes_without_inferred_labels():
    stack = stack_of()
    batch = batch_of(stack)
    plain = losses_of(rule_of(stack, 0.1), batch)
    none_is_sure = rule_of(stack, 0.1, inferring=Inferring(1.0, confidence=1.0))
    all_are_sure = rule_of(stack, 0.1, inferring=Inferring(1.0, confidence=0.0))

    assert losses_of(none_is_sure, batch) == plain
    assert losses_of(all_are_sure, batch) != plain
    assert losses_of(all_are_sure, batch, update=0) == plain  # at the start the weight is 0


@pytest.mark.parametrize("term", ["joint_label_3", "target_f_2"])
def test_inferred_labels_of_no_weight_do_not_count(term):
    stack = stack_of(top=(5, 4))
    batch = batch_of(stack)
    plain, tiny = (
        losses_of(rule_of(stack, hiding=Hiding(0.0), inferring=Inferring(w, 0.0)), batch)[term]
        for w in (0.0, 1e-9)
    )

    assert tiny == pytest.approx(plain, rel=1e-6)


# -- whole fits ----------------------------------------------------------------------------------


def blob_error(inferred, updates=200):
    """Error on two long blobs side by side, of which one misleading point each has a label."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(200) % 2
    centres = torch.stack([2.0 * y - 1.0, 0.0 * y], 1)
    x = torch.randn(200, 2, generator=generator) * torch.tensor([0.2, 1.0]) + centres
    x[:2] = torch.tensor([[-1.0, 1.2], [1.0, -1.2]])

    torch.manual_seed(0)
    stack = joint_autoencoder(
        {"x": {"sizes": [2], "kind": "real"}, "y": {"sizes": [2], "kind": "onehot"}}, [16]
    )
    rule = rule_of(
        stack,
        0.5,
        hiding=Hiding({"y": 0.9}),
        weights=JointWeights(modalities={"x": 0.0}),
        inferring=Inferring(inferred),
        rates=Rates(f=1e-2, g=1e-2),
    )

    rows = torch.cat([torch.arange(2).repeat(25), torch.arange(200)])
    batch = stack.join({"x": x[rows], "y": torch.where(torch.arange(250) < 50, y[rows], -1)})
    optimizer = rule.configure_optimizers()
    noise = torch.Generator().manual_seed(0)

    for update in range(updates):
        moment = Moment(update / updates, noise, update)
        optimizer.zero_grad()
        sum(rule.losses(batch, moment).values()).backward()
        optimizer.step()

    return (stack.predict({"x": x}, "y").argmax(1) != y).double().mean().item()


def test_inferred_labels_teach_where_one_label_of_each_class_misleads():
    assert blob_error(1.0) < 0.02
    assert blob_error(0.0) > 0.1


def test_a_fit_logs_the_error_of_one_pass_and_its_best_checkpoint_predicts(tmp_path):
    torch.manual_seed(0)
    stack = joint_autoencoder(
        {"image": {"sizes": [64, 30]}, "label": {"sizes": [10], "kind": "onehot"}},
        [20],
        hidden_f=[30],
    )
    data = Multimodal(
        Digits(), ["image", "label"], labelled=FewLabels(500, share=0.8), batch_size=50
    )
    keep = ModelCheckpoint(tmp_path, "best", monitor="val/error", mode="min")
    t = trainer(max_epochs=3, callbacks=[keep], enable_checkpointing=True)
    rule = JointTargetPropRule(
        stack,
        rates=Rates(f=1e-2, g=1e-2),
        weights=JointWeights(pair=0.1),
        hiding=Hiding(chances={"label": 0.7}),
        hybrid=Hybrid(joint_weight=0.0),
    )
    t.fit(rule, data)

    x, y, _ = data.source.split("valid")
    best = load(tmp_path / "best.ckpt")
    error = (best.predict({"image": x}, "label").argmax(1) != y).float().mean().item()

    assert t.checkpoint_callback.best_model_score.item() == pytest.approx(error)
    assert error < 0.35
    assert t.callback_metrics["val/error_label"] == t.callback_metrics["val/error"]

    image = stack.predict({"label": y}, "image")
    mse = (image - x).square().mean().item()
    assert t.callback_metrics["val/error_image"].item() == pytest.approx(mse, rel=1e-5)
    assert {"sampler", "completer"} <= set(best.settings.chosen())
    assert best.prior.fitted


@pytest.mark.parametrize("sizes", [(7,), (3, 4)])
def test_the_prior_and_residuals_are_those_of_complete_examples(monkeypatch, sizes):
    """The prior's of all batches, the residuals of the first ones."""
    monkeypatch.setattr(prior_fit, "WIDTHS", 3)
    stack = stack_of()
    x, there = batch_of(stack)
    batches = list(zip(x.split(sizes), there.split(sizes), strict=True))
    rule_of(stack).fit_prior(batches)

    complete = there.all(1)
    assert torch.allclose(stack.prior.mean, stack.encode(x[complete])[-1].mean(0))

    assert torch.allclose(stack.residuals, stack.fit_residuals(x[complete][:3]))
