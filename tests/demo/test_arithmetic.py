"""The page computes what Python does, to 1e-5."""

import json

import pytest
import torch

from gendae import Inpainter, TargetPropInference, load
from gendae.demo.weights import packed, page_model, rounded
from gendae.models.architectures import deep_autoencoder, deep_classifier
from gendae.rules.difference import DifferenceTargetPropRule, InverseLearning

pytestmark = pytest.mark.site

STACKS = ["digits-variational-em", "toy-field", "mnist-kl-parzen"]


def computed(page, body, *given):
    """What a script of the page's modules returns."""
    script = f"""
    const [given, done] = [JSON.parse(arguments[0]), arguments[1]];
    (async () => {{ {body} }})().then(done, (error) => done(`${{error.stack}}`));
    """
    result = page.execute_async_script(script, json.dumps(given))
    assert not isinstance(result, str), result

    return result


def close(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(
        torch.tensor(ours, dtype=theirs.dtype), theirs, rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize("name", STACKS)
def test_up_and_down(page, name, bits):
    stack = load(name)
    x = torch.rand(stack.sizes[0])
    found = computed(
        page,
        """
        const {Stack} = await import("gendae/stack.js");
        const [model, x] = given;
        const stack = new Stack(model);
        const up = stack.up(Float32Array.from(x));
        return [up.map((h) => [...h]), stack.down(up.at(-1)).map((h) => [...h])];
        """,
        page_model(stack, name, bits),
        x.tolist(),
    )

    same = rounded(stack) if bits == 8 else stack
    with torch.no_grad():
        up = same.up(x[None])
        down = same.down(up[-1])
    for ours, theirs in zip(found[0] + found[1], up + down, strict=True):
        close(ours, theirs[0])


@pytest.mark.parametrize("masked", [False, True])
def test_inference(page, masked):
    torch.manual_seed(1)
    stack = deep_autoencoder([12, 10, 8, 5], ["softplus", "tanh", "sigmoid"])
    stack.facts |= {"shape": (3, 4), "kind": "image"}
    stack.prior.fit(torch.rand(50, 5))
    x = torch.rand(1, 12)
    mask = torch.arange(12) < 7 if masked else None

    found = computed(
        page,
        """
        const {Stack} = await import("gendae/stack.js");
        const {inference} = await import("gendae/inference.js");
        const {first, last} = await import("gendae/controls.js");
        const [model, x, mask] = given;
        const moves = inference(
          new Stack(model), Float32Array.from(x), mask, {delta: 0.3, alpha: 0.2});
        return last(first(6, moves)).map((h) => [...h]);
        """,
        page_model(stack, "small"),
        x[0].tolist(),
        None if mask is None else mask.tolist(),
    )

    h = TargetPropInference(5, 0.3, 0.2)(stack, x, mask)
    for ours, theirs in zip(found[1:], h[1:], strict=True):
        close(ours, theirs[0])


def test_completion(page):
    stack = load("digits-variational-em")
    x = torch.rand(1, 64)
    start = torch.rand(1, 64)
    mask = torch.arange(64) < 32

    found = computed(
        page,
        """
        const {Stack} = await import("gendae/stack.js");
        const {completion} = await import("gendae/inference.js");
        const {first, last} = await import("gendae/controls.js");
        const [model, x, mask, start] = given;
        const states = completion(new Stack(model), Float32Array.from(x), mask,
          Float32Array.from(start), {delta: 0.3, alpha: 0.3});
        return [...last(first(8, states))];
        """,
        page_model(stack, "digits"),
        x[0].tolist(),
        mask.tolist(),
        start[0].tolist(),
    )

    inpainter = Inpainter(1, TargetPropInference(7, 0.3, 0.3), chains=1)
    begun = torch.where(mask, x, start)
    theirs = torch.where(mask, x, inpainter.step(stack, begun, mask, None))
    close(found, theirs[0])


@pytest.mark.parametrize("name", ["digits-variational-em", "mnist-kl-parzen"])
def test_the_likeliest_draw(page, name):
    stack = load(name)
    x = torch.rand(1, stack.sizes[0])
    mask = torch.arange(stack.sizes[0]) < stack.sizes[0] // 2
    draws = stack.decode(stack.prior.sample(30, torch.Generator().manual_seed(0)))

    found = computed(
        page,
        """
        const {likeliest} = await import("gendae/inference.js");
        const [draws, x, mask, law] = given;
        return draws.indexOf(likeliest(draws, x, mask, law));
        """,
        draws.tolist(),
        x[0].tolist(),
        mask.tolist(),
        page_model(stack, name)["law"],
    )
    score = stack.law(0).pool_log_prob(x, mask[None].to(x), draws, noise=1.0)
    assert found == int(score.argmax())


@pytest.mark.parametrize("name", ["digits-variational-em", "toy-field", "mnist-targetprop-parzen"])
def test_draws_of_the_prior_have_its_moments(page, name):
    stack = load(name)
    found = computed(
        page,
        """
        const {Stack} = await import("gendae/stack.js");
        const {Random} = await import("gendae/random.js");
        const stack = new Stack(given[0]);
        const random = new Random(0);
        return Array.from({length: 2000}, () => [...stack.prior.sample(random)]);
        """,
        page_model(stack, name),
    )
    ours = torch.tensor(found)
    theirs = stack.prior.sample(20_000, torch.Generator().manual_seed(0))

    scale = theirs.std(0)
    assert ((ours.mean(0) - theirs.mean(0)).abs() / scale).max() < 0.15
    assert (ours.std(0) / scale - 1.0).abs().max() < 0.15


def test_labels_of_images_and_images_of_labels(page):
    joint = load("mnist-joint-label")
    x = torch.rand(1, 784)
    found = computed(
        page,
        """
        const {Joint, oneHot} = await import("gendae/joint.js");
        const [model, x] = given;
        const joint = new Joint(model);
        const label = oneHot(3, 10);
        const begun = joint.down(joint.up(null, label)).code;
        const code = joint.round(begun, label, null, 0);
        return [joint.predict(x), begun, code, joint.image.g(code)].map((row) => [...row]);
        """,
        page_model(joint, "joint"),
        x[0].tolist(),
    )

    label = torch.nn.functional.one_hot(torch.tensor([3]), 10).float()
    given = torch.cat([torch.zeros(1, 1000), label], 1)
    with torch.no_grad():
        begun = joint.loop(given, torch.tensor([[False, True]]))[:, :1000]
        codes = joint.loop(torch.cat([begun, label], 1))
        image = joint.x_of(codes)[:, :784]

    close(found[0], joint.predict({"image": x}, "label")[0])
    close(found[1], begun[0])
    close(found[2], codes[0, :1000])
    close(found[3], image[0])


def layers_of(*layers):
    return [{"weight": f.weight.tolist(), "bias": f.bias.tolist()} for f in layers]


def test_an_update_by_difference_target_propagation(page):
    network = deep_classifier([2, 5, 4], classes=2).double()
    rule = DifferenceTargetPropRule(network, inverses=InverseLearning(sigma=0.0))
    x = torch.randn(6, 2, dtype=torch.float64)
    y = torch.randint(2, (6,))

    f = [pair.f for pair in network.pairs]
    g = network.pairs[1].g
    given = [layers_of(*f), layers_of(g), layers_of(network.output)[0], x.tolist(), y.tolist()]
    found = computed(
        page,
        """
        const {Learner, TargetNetwork} = await import("gendae/learning.js");
        const [f, g, output, xs, ys] = given;
        const layer = (linear) => ({weight, bias}) => new Learner(
          weight.map((row) => Float64Array.from(row)), Float64Array.from(bias), linear);
        const network = new TargetNetwork({
          f: f.map(layer(false)), g: g.map(layer(false)), output: layer(true)(output)});
        const {losses, gradients} = network.losses(xs, ys, () => 0);
        const rows = ({weight, bias}) => [weight.map((row) => [...row]), [...bias]];
        const slopes = gradients.map(([, gradient]) => rows(gradient));
        for (const [one, gradient] of gradients) one.learn(gradient, 0.01);
        return [losses, slopes, network.f[0].weight.map((row) => [...row])];
        """,
        *given,
    )

    losses = rule.losses((x, y))
    sum(losses.values()).backward()
    ours, slopes, learned = found
    names = {"f_1": "target_f_1", "f_2": "target_f_2", "label": "label_f_3", "g_2": "inverse_g_2"}
    for name, theirs in names.items():
        close(ours[name], losses[theirs].detach(), 1e-9)
    for (weight, bias), layer in zip(slopes, [*f, network.output, g], strict=True):
        close(weight, layer.weight.grad, 1e-9)
        close(bias, layer.bias.grad, 1e-9)

    torch.optim.Adam([f[0].weight], 0.01).step()
    close(learned, f[0].weight.detach(), 1e-9)


def test_eight_bits_keep_each_row_to_a_part_of_its_largest():
    array = torch.randn(5, 40) * torch.tensor([[1e-3], [1.0], [50.0], [1.0], [0.0]])
    stack = deep_autoencoder([40, 5])
    stack.pairs[0].f.weight.data = array
    gap = (rounded(stack).pairs[0].f.weight - array).abs()

    assert (gap <= array.abs().amax(1, keepdim=True) / 253).all()
    assert packed(array, 8)["bits"] == 8
    assert len(packed(array, 8)["data"]) < len(packed(array, 32)["data"]) / 3.9
