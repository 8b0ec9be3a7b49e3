"""Algorithm 5 of 2014 over several modalities: targets, missing values, inferred labels, fits."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from gendae.corruption import GaussianNoise
from gendae.layers.affine import Affine
from gendae.models.architectures import joint_autoencoder
from gendae.models.joint import JointStack
from gendae.models.modalities import Junction, Modality
from gendae.rules.feedback import Exact
from gendae.rules.inverses import Inverses
from gendae.rules.joint import JointTargetPropRule, JointWeights
from gendae.rules.missing import Hiding, hidden
from gendae.rules.targets import Hybrid, output_score
from tests.conftest import at

LABELS = torch.tensor([0, 2, -1, 1, -1, 2, 0])


def stack_of(sizes=(6, 5, 4), top=(5,)):
    torch.manual_seed(0)
    modalities = {"image": {"sizes": list(sizes)}, "label": {"sizes": [3], "kind": "onehot"}}
    return joint_autoencoder(modalities, top, "tanh", gain=2.0).double()


def rule_of(stack=None, corrupt=0.0, **options):
    stack = stack or stack_of()
    return JointTargetPropRule(stack, [GaussianNoise(corrupt)] * (stack.depth + 1), **options)


SEEN = Hiding(chances=0.0)  # nothing is hidden


def batch_of(stack, labels=LABELS):
    """Rows without label, and one without image."""
    x = torch.rand(len(labels), 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    x[3] = float("nan")
    return stack.join({"image": x, "label": labels})


def by_hand(stack, codes, seen):
    """The image means and label logits that the top's weights make of the seen codes."""
    f = stack.junction.f.f
    g = stack.junction.g.g
    seen = seen.to(codes)
    width = codes.shape[1] - 3
    shown = torch.cat([codes[:, :width] * seen[:, :1], codes[:, width:] * seen[:, 1:], seen], 1)
    a = torch.tanh(shown @ f.weight.T + f.bias) @ g.weight.T + g.bias

    return torch.tanh(a[:, :width]), a[:, width:]


def loop_of(stack, codes, seen):
    image, logits = by_hand(stack, codes, seen)
    return torch.cat([image, logits.softmax(1)], 1).detach()


def test_reach_full_is_back_propagation_of_the_joint_criterion():
    stack = stack_of()
    x, there = batch_of(stack)
    losses = rule_of(stack, hiding=SEEN, reach="full").losses((x, there))

    assert set(losses) == {"pair_1", "pair_2", "joint_image_3", "joint_label_3"}

    f1, f2 = (pair.f.maps[0] for pair in stack.pairs[:2])
    code = torch.tanh(
        f2.weight @ torch.tanh(f1.weight @ x[:, :6].T + f1.bias[:, None]) + f2.bias[:, None]
    ).T
    image, logits = by_hand(stack, torch.cat([code, x[:, 6:]], 1), there)

    expected = {
        "joint_image_3": ((code.detach() - image).square().sum(1) / 2 * there[:, 0]).mean(),
        "joint_label_3": -(x[:, 6:] * logits.log_softmax(1)).sum(1).mean(),
    }
    for name, value in expected.items():
        assert torch.allclose(losses[name], value), name
        for weight in (f1.weight, f2.weight):
            ours, autograd = (
                torch.autograd.grad(v, weight, retain_graph=True)[0] for v in (losses[name], value)
            )
            assert torch.allclose(ours, autograd, rtol=1e-10, atol=1e-15), name
            assert ours.abs().max() > 1e-4


def test_without_noise_every_term_is_the_listing_s():
    stack = stack_of()
    x, there = stack.join(
        {"image": torch.rand(4, 6).double(), "label": torch.tensor([0, 1, 2, 0])}
    )
    weights = JointWeights(3.0, 0.3, short=0.7, recirculation=2.0, long=0.2)
    weights = replace(weights, modalities={"label": 0.5})
    losses = rule_of(stack, weights=weights, hiding=SEEN).losses((x, there))
    (f1, g1), (f2, g2) = ((p.f.maps[0], p.g.maps[0]) for p in stack.pairs[:2])
    h1 = f1(x[:, :6])
    h2 = f2(h1)
    codes = torch.cat([h2, x[:, 6:]], 1)
    image, logits = by_hand(stack, codes, there)
    d = loop_of(stack, codes, there) - codes
    h2_hat = h2 + d[:, :4]
    h1_hat = h1 + g2(h2_hat) - g2(h2)
    squares = {
        "pair_1": (x[:, :6], g1(h1), 0.3),
        "pair_2": (h1, g2(h2), 0.3),
        "joint_image_3": (h2, image, 1.0),
        "short_g_1": (x[:, :6], g1(h1), 0.7),
        "short_g_2": (h1, g2(h2), 0.7),
        "long_g_1": (x[:, :6], g1(h1_hat), 0.2),
        "long_g_2": (h1, g2(h2_hat), 0.2),
        "short_f_1": (h1, f1(g1(h1)), 2.0),
        "short_f_2": (h2, f2(g2(h2)), 2.0),
    }

    for name, (target, output, weight) in squares.items():
        assert torch.allclose(
            losses[name], weight * (target - output).square().sum(1).mean() / 2
        ), name
    assert torch.allclose(
        losses["joint_label_3"], -0.5 * (x[:, 6:] * logits.log_softmax(1)).sum(1).mean()
    )

    assert torch.allclose(losses["target_f_2"], 3.0 * d.square().sum(1).mean() / 2)


def test_a_deeper_top_is_one_auto_encoder():
    stack = stack_of(top=(5, 4, 3))
    x, there = batch_of(stack)
    weights = JointWeights(modalities={"label": 0.5})
    losses = rule_of(stack, weights=weights, hiding=SEEN).losses((x, there))
    codes = stack.lower(x)[-1].detach()
    f = stack.junction.f.f
    g = stack.junction.g.g
    seen = there.to(x)
    h3 = torch.tanh(
        torch.cat([codes[:, :4] * seen[:, :1], codes[:, 4:] * seen[:, 1:], seen], 1) @ f.weight.T
        + f.bias
    )
    (f4, g4), (f5, g5) = ((p.f, p.g) for p in stack.pairs[3:])
    a = g(g4(g5(f5(f4(h3)))))
    image = (torch.tanh(a[:, :4]) - codes[:, :4]).square().sum(1) / 2 * seen[:, 0]

    assert torch.allclose(losses["joint_image_3"], image.mean())
    assert torch.allclose(
        losses["joint_label_3"], -0.5 * (x[:, 6:] * a[:, 4:].log_softmax(1)).sum(1).mean()
    )


@pytest.mark.parametrize("discriminant", ["missing", "inferred"])
@pytest.mark.parametrize("unlabelled", [None, 0.7])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_hybrid_target_is_equation_19(alpha, unlabelled, discriminant):
    """Without a label the joint weight is `unlabelled`; at 1, the target is Algorithm 5's."""
    stack = stack_of()
    x, there = batch_of(stack)
    h = stack.lower(x)[-1].detach()
    without = there & torch.tensor([True, False])
    h_hat = loop_of(stack, h, there)

    h_minus = loop_of(stack, h, without)
    if discriminant == "inferred":
        h_minus = loop_of(stack, torch.cat([h[:, :4], h_minus[:, 4:]], 1), there)

    target = h_hat + (1.0 - alpha) * (h - h_minus)
    alone = alpha if unlabelled is None else unlabelled
    target = torch.where(there[:, 1:], target, h + alone * (h_hat - h))
    target = torch.where(stack.spread(there, 2), target, h)
    hybrid = Hybrid(joint_weight=alpha, unlabelled=unlabelled, discriminant=discriminant)

    assert torch.allclose(h + hybrid(stack, h, there), target)


@pytest.mark.parametrize(
    "options", [{"outputs": []}, {"joint_weight": 1.0, "discriminant": "gradient"}]
)
def test_without_outputs_or_with_the_joint_weight_1_the_target_is_the_joint_one(options):
    stack = stack_of()
    x, there = batch_of(stack)
    h = stack.lower(x)[-1].detach()
    joint = (loop_of(stack, h, there) - h) * stack.spread(there, 2)

    hybrid = Hybrid(**{"joint_weight": 0.0, **options})

    assert torch.allclose(hybrid(stack, h, there), joint)


def test_the_output_score_is_the_gradient_of_log_p_of_the_label():
    stack = stack_of()
    x, there = batch_of(stack)
    h = stack.lower(x)[-1].detach()
    without = there & torch.tensor([True, False])
    free = h.clone().requires_grad_()
    log_p = by_hand(stack, free, without)[1].log_softmax(1)
    (score,) = torch.autograd.grad(log_p[LABELS >= 0, LABELS[LABELS >= 0]].sum(), free)
    hybrid = Hybrid(joint_weight=0.25, discriminant="gradient")

    assert torch.allclose(output_score(stack, h, there, without, [1]), score)
    assert score[LABELS < 0].abs().max() == 0 < score.abs().max()

    joint = loop_of(stack, h, there) - h
    target = torch.where(there[:, 1:], 0.25 * joint + 0.75 * score, 0.25 * joint) * stack.spread(
        there, 2
    )

    assert torch.allclose(hybrid(stack, h, there), target)


class PosteriorMean(nn.Module):
    """The optimal denoiser of (h, y) ~ N(0, C): E[(h, y) | what is seen of (h, y) + noise]."""

    in_features = 5
    out_features = 3
    activation = "linear"

    def __init__(self, c, noise):
        super().__init__()
        self.c = c
        self.noise = noise

    def forward(self, shown):
        rows = []
        for row in shown:
            seen = row[3:].repeat_interleave(torch.tensor([2, 1])).bool()
            k = self.c[seen][:, seen] + self.noise**2 * torch.eye(int(seen.sum()), dtype=row.dtype)
            rows.append(self.c[:, seen] @ torch.linalg.solve(k, row[:3][seen]))
        return torch.stack(rows)


@pytest.mark.parametrize("discriminant", ["missing", "inferred"])
def test_reconstructions_of_the_optimal_denoiser_give_the_scores_of_equations_16_and_17(
    discriminant,
):
    """For (h, y) ~ N(0, C) the displacement is noise^2 times the exact score, up to O(noise^4)."""
    root = torch.randn(3, 3, dtype=torch.float64)
    c = root @ root.T + torch.eye(3)
    codes = torch.randn(6, 3, dtype=torch.float64)
    there = torch.ones(6, 2, dtype=torch.bool)
    h = codes[:, :2]
    y = codes[:, 2:]
    joint = -(codes @ torch.linalg.inv(c))[:, :2]
    b = c[2:, :2] @ torch.linalg.inv(c[:2, :2])
    conditional = (y - h @ b.T) / (c[2, 2] - b @ c[:2, 2:]) * b  # d log P(y | h) / dh

    misses = []
    for noise in (0.02, 0.01):
        identity = Affine(3, 3).double()
        with torch.no_grad():
            identity.weight.copy_(torch.eye(3))

        stack = JointStack(
            {"h": Modality(2), "y": Modality(1)}, [Junction(PosteriorMean(c, noise), identity)]
        )
        for alpha, score in (
            (1.0, joint),
            (0.0, conditional),
            (0.3, 0.3 * joint + 0.7 * conditional),
        ):
            hybrid = Hybrid(outputs=["y"], joint_weight=alpha, discriminant=discriminant)
            moved = hybrid(stack, codes, there)[:, :2]
            misses.append((moved / noise**2 - score).abs().max().item())
            assert misses[-1] < 0.02 * score.abs().max()

    assert all(
        0.2 < small / large < 0.3 for large, small in zip(misses[:3], misses[3:], strict=True)
    )


@pytest.mark.parametrize("difference", [True, False])
def test_targets_come_down_with_or_without_the_correction(difference):
    stack = stack_of()
    x, there = stack.join(
        {"image": torch.rand(5, 6).double(), "label": torch.tensor([0, 2, -1, 1, -1])}
    )
    hybrid = Hybrid(joint_weight=0.4)
    weights = JointWeights(target=3.0)
    rule = rule_of(stack, weights=weights, hybrid=hybrid, difference=difference)
    losses = rule.losses((x, there), at(0))
    x, h1, h2 = stack.lower(x)
    d2 = hybrid(stack, h2, there)
    g2 = stack.pairs[1].g
    d1 = (g2(h2 + d2) - (g2(h2) if difference else h1)).detach()

    for level, below, d in ((1, x, d1), (2, h1, d2)):
        f = stack.pairs[level - 1].f
        target = (f(below) + d).detach()
        error = 3.0 * (target - f(below.detach())).square().sum(1).mean() / 2

        assert torch.allclose(losses[f"target_f_{level}"], error)

        ours, expected = (
            torch.autograd.grad(v, f.maps[0].weight)[0]
            for v in (losses[f"target_f_{level}"], error)
        )
        assert torch.allclose(ours, expected)


def test_modalities_are_hidden_as_often_as_asked_and_one_always_stays():
    """If both would be hidden, the larger excess over the chance stays: 3 in 4 times the image."""
    seen = hidden(torch.ones(100_000, 2, dtype=torch.bool), [0.3, 0.6], None)
    patterns = {
        "both": (seen.all(1), 0.28),
        "label": (~seen[:, 0], 0.3 * 0.4 + 0.18 / 4),
        "image": (~seen[:, 1], 0.7 * 0.6 + 0.18 * 3 / 4),
        "none": (~seen.any(1), 0.0),
    }

    for rows, expected in patterns.values():
        assert rows.double().mean().item() == pytest.approx(expected, abs=0.005)
    assert torch.equal(
        hidden(torch.ones(9, 2).bool(), [0.0, 1.0], None)[:, 1], torch.zeros(9).bool()
    )


@pytest.mark.parametrize("hide", [0.0, 0.5, 1.0])
def test_what_is_missing_is_never_revealed(hide):
    """Not even where nothing is observed."""
    there = torch.rand(3000, 3) < 0.5
    seen = hidden(there, [hide] * 3, None)

    assert not (seen & ~there).any()
    assert torch.equal(seen.any(1), there.any(1))
    assert torch.equal(seen, there) == (hide == 0.0)
    if hide == 1.0:
        assert (seen.sum(1) == there.any(1)).all()
        assert seen[there.all(1)].double().mean(0).sub(1 / 3).abs().max() < 0.1


def losses_of(rule, batch):
    return {name: value.item() for name, value in rule.losses(batch, at(0)).items()}


HALF = {"hybrid": Hybrid(joint_weight=0.5)}
NO_PAIRS = JointWeights(pair=0.0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("label", {**HALF, "weights": JointWeights(recirculation=1.0, short=1.0)}),
        ("label", {"hybrid": Hybrid(joint_weight=0.5, discriminant="gradient")}),
        ("image", {**HALF, "weights": NO_PAIRS}),
        ("image", {}),
        ("image", {"weights": JointWeights(pair=0.0, recirculation=1.0, short=1.0)}),
        ("image", {"weights": NO_PAIRS, "difference": False}),
    ],
)
def test_what_stands_in_missing_modalities_changes_no_loss(name, options):
    stack = stack_of(top=(5, 4))
    x, there = batch_of(stack)
    missing = stack.spread(~there) & stack.spread(torch.tensor([[n == name for n in stack.names]]))
    spoiled = torch.where(missing, torch.rand(x.shape).double(), x)

    assert not torch.equal(x, spoiled)

    rule = rule_of(stack, **options)
    assert losses_of(rule, (x, there)) == pytest.approx(
        losses_of(rule, (spoiled, there)), abs=1e-12
    )


def test_labelled_and_unlabelled_rows_share_a_batch():
    """Every loss of a batch is the mean of its rows' losses; exact feedback draws no noise."""
    stack = stack_of(top=(5, 4))
    x, there = batch_of(stack)
    rule = rule_of(
        stack,
        feedback=Exact(),
        weights=JointWeights(recirculation=1.0),
        hiding=SEEN,
        hybrid=Hybrid(joint_weight=0.0),
    )
    whole = losses_of(rule, (x, there))
    rows = [losses_of(rule, (x[i : i + 1], there[i : i + 1])) for i in range(len(x))]

    assert whole == pytest.approx(
        {name: sum(row[name] for row in rows) / len(x) for name in whole}
    )
    assert rows[2]["joint_label_3"] == rows[3]["joint_image_3"] == 0.0 < rows[2]["joint_image_3"]

    # all are there, if not told
    assert losses_of(rule, (x[:2],)) == pytest.approx(losses_of(rule, (x[:2], there[:2])))


@pytest.mark.parametrize("walkback", [0, 1])
def test_exact_feedback_inside_the_top_is_back_propagation(walkback):
    """That of the whole top as one denoising auto-encoder, noise at every level included."""
    stack = stack_of(top=(5, 4, 3))
    options = {
        "corrupt": 0.2,
        "hiding": Hiding(chances=0.4, walkback=walkback),
        "weights": JointWeights(modalities={"image": 0.5, "label": 3.0}),
    }
    top = [p for pair in stack.pairs[stack.level :] for p in pair.parameters()]
    local = rule_of(stack, feedback=Exact(), **options).losses(batch_of(stack), at(2))
    whole = rule_of(stack, reach="full", **options).losses(batch_of(stack), at(2))

    ours = torch.autograd.grad(sum(local.values()), top)
    theirs = torch.autograd.grad(sum(whole.values()), top)

    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
    for name in ("joint_image_3", "joint_label_3"):
        assert torch.allclose(local[name], whole[name])


@pytest.mark.parametrize("walkback", [0, 1, 2])
def test_inverses_inside_the_top_learn_at_what_is_sent_and_as_much_by_walks(walkback):
    """Without noise, and with nothing hidden, all walks are the same; the mean is that of one."""
    stack = stack_of(top=(5, 4))
    batch = (torch.rand(7, 9, dtype=torch.float64), torch.ones(7, 2, dtype=torch.bool))
    hiding = Hiding(chances=0.0, walkback=walkback)
    rule = rule_of(stack, feedback=Inverses(0.0), hiding=hiding)
    losses = rule.losses(batch)

    codes = stack.lower(batch[0])[-1]
    given = stack.junction.f.input(codes, batch[1])
    states = rule.chain.run(given, lambda level, h, moment: h, at())
    assert_at_sent(losses, rule.feedback, rule.chain, states)


def assert_at_sent(losses, feedback, chain, states):
    """The errors of inverses are those at the very values from which displacements start."""
    errors = {}
    for number, inverse in feedback.layers.items():
        state = states[int(number)]
        error = (inverse(state.sent) - state.given).square().sum(1).mean() / 2
        name = f"feedback_{chain.links[int(number)].name}"
        errors[name] = errors.get(name, 0.0) + error

    assert all(torch.allclose(losses[name], error) for name, error in errors.items())


def test_weights_are_given_by_name():
    stack = stack_of()
    x, there = batch_of(stack_of())
    plain = losses_of(rule_of(stack), (x, there))
    weights = JointWeights(modalities={"image": 0.0, "label": 3.0})
    weighted = losses_of(rule_of(stack, weights=weights), (x, there))

    assert weighted.pop("joint_label_3") == pytest.approx(3.0 * plain.pop("joint_label_3"))

    del plain["joint_image_3"]
    assert weighted == plain

    weights = JointWeights(modalities={"image": 0.0})
    assert "joint_label_3" in losses_of(rule_of(stack, weights=weights), (x, there))


def test_outputs_are_what_the_error_counts():
    stack = stack_of()
    rule = rule_of(stack, hybrid=Hybrid(outputs=["image"]))
    logged = {}
    rule.log = lambda name, value, **_: logged.update({name: value})
    x, there = batch_of(stack)
    rule.validation_step((x, there), 0)
    guess = stack.predict({"label": x[:, 6:][LABELS >= 0]}, "image")
    rows = there[:, 0]
    nothing = stack.x_of(stack.loop(torch.zeros(1, 7).double(), torch.tensor([[False, False]])))[
        0, :6
    ]
    everything = nothing.repeat(len(x), 1)
    everything[LABELS >= 0] = guess
    error = (everything - x[:, :6]).square().mean(1)[rows].mean()

    assert torch.allclose(logged["val/error"], error)
    assert torch.allclose(logged["val/error_image"], error)
