"""Tensors to matplotlib figures; knows nothing of the models. Figures need no display."""

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import figure as matplotlib_figure
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from PIL import Image
from torch import Tensor

from gendae import checks
from gendae.data.mosaic import enlargement, tile
from gendae.metrics.spikes import Means, TimingCurve
from gendae.storage.atomic import write_whole

#: Pixels of a line of titles, and the least width of what has one.
TITLE = 24
TITLED = 60


class Figure(matplotlib_figure.Figure):
    """A figure that notebooks show as a picture, without %matplotlib."""

    def _repr_png_(self) -> bytes:
        return png_of(self)


def png_of(figure: matplotlib_figure.Figure) -> bytes:
    """Any figure of matplotlib as a file in the PNG format.

    Raises:
        ValueError: for what is no figure.
    """
    checks.kind("figure", figure, matplotlib_figure.Figure)
    png = io.BytesIO()
    figure.savefig(png, format="png")

    return png.getvalue()


@checks.takes_arrays
def picture(canvas: Tensor, scale: int | None = None, titles: Sequence[str] = ()) -> Figure:
    """A figure that shows a picture without margins.

    Args:
        canvas: 0 is black, 1 is white, (height, width), or (height, width, 3) in colour.
        scale: screen pixels per pixel; None enlarges small pictures.
        titles: above equal parts of the width.
    """
    if scale is None:
        scale = enlargement(*canvas.shape[:2])

    height, width = (scale * side for side in canvas.shape[:2])
    whole = height + TITLE if titles else height

    figure = Figure(figsize=(width / 100, whole / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, height / whole))
    axes.imshow(canvas.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()

    for i, title in enumerate(titles):
        middle = (i + 0.5) / len(titles)
        figure.text(middle, 1 - TITLE / 2 / whole, title, ha="center", va="center", fontsize=9)

    return figure


@checks.takes_arrays
def gallery(x: Tensor, kind: str, shape: tuple[int, ...]) -> Figure:
    """A picture of samples, drawn as suits their kind (`gendae.data.base.Data`).

    Images lie in a grid, whitened ones as `filters` do, points of the plane in a scatter plot, and
    each vector is a curve. So is a sequence of single numbers; of others each is a picture, a row
    for a step.
    """
    if kind == "points":
        return scatter(x)
    if kind == "vector" or (kind == "sequence" and shape[1] == 1):
        return curves(x)
    if kind == "whitened":
        return filters(x, shape)
    if kind == "sequence":
        x = _in_unit_interval(x)

    return image_grid(x, shape)


def _in_unit_interval(x: Tensor) -> Tensor:
    """All numbers between the least, 0, and the greatest, 1."""
    low, high = x.aminmax()
    return (x - low) / (high - low).clamp(min=torch.finfo(x.dtype).tiny)


@checks.takes_arrays
def scatter(x: Tensor) -> Figure:
    """Points of the plane, (n, 2)."""
    u, v = x.detach().float().cpu().numpy().T
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    axes.plot(u, v, ".", markersize=2, color="tab:orange")

    return figure


@checks.takes_arrays
def curves(x: Tensor) -> Figure:
    """Vectors, (n, features), each a curve over the index of its elements."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="element", ylabel="value")
    axes.plot(x.detach().float().cpu().numpy().T, linewidth=0.5, alpha=0.5, color="tab:orange")

    return figure


@checks.takes_arrays
def image_grid(x: Tensor, shape: tuple[int, ...], columns: int | None = None) -> Figure:
    """Images in a grid, as square as possible."""
    return picture(tile(x, shape, columns))


@checks.takes_arrays
def side_by_side(columns: dict[str, Tensor], shape: tuple[int, ...]) -> Figure:
    """Several images of each example in a row under their names; from 15 rows on in two columns.

    Args:
        columns: by name, (n, features) each.
        shape: of the images, see `checks.ImageShape`.
    """
    images = torch.stack([x.detach().cpu() for x in columns.values()], 1)
    groups = max(1, round(len(images) / 10))
    names = list(columns) * groups

    canvas = tile(images.flatten(0, 1), shape, len(names))
    scale = max(enlargement(*canvas.shape[:2]), math.ceil(TITLED / (shape[-1] + 1)))

    return picture(canvas, scale, names)


@checks.takes_arrays
def inpainting(original: Tensor, mask: Tensor, filled: Tensor, shape: tuple[int, ...]) -> Figure:
    """Original, given (missing pixels grey) and filled images side by side (Figure 5)."""
    grey = torch.full_like(original, 0.5)
    channels = checks.ImageShape.of(shape).channels
    seen = checks.mask("mask", mask, len(original), original.shape[1], channels)
    given = torch.where(seen.expand_as(original), original, grey)

    return side_by_side({"original": original, "given": given, "filled": filled}, shape)


@checks.takes_arrays
def trace(
    values: Tensor, ylabel: str = "log p(x, h) without the prior  [nats]", examples: int = 5
) -> Figure:
    """Mean and standard error over images, (steps + 1, images), and a few images (Figure 4)."""
    values = values.double()
    mean = values.mean(1)
    error = values.std(1) / math.sqrt(values.shape[1])
    low = (mean - error).numpy()
    high = (mean + error).numpy()

    steps = range(len(values))
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    few = axes.plot(steps, values[:, :examples].numpy(), "--", linewidth=0.8, color="0.6")
    few[0].set_label("single images")
    axes.plot(steps, mean.numpy(), color="tab:red", label=f"mean of {values.shape[1]:,} images")
    axes.fill_between(steps, low, high, color="tab:red", alpha=0.3)

    axes.set(xlabel="inference step", ylabel=ylabel)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="lower right")

    return figure


def save(figure: matplotlib_figure.Figure, path: str | Path) -> Path:
    """Write a figure, any of matplotlib's, as PNG (whatever the suffix), making its folder."""
    return write_whole(path, png_of(figure))


def pixels(figure: matplotlib_figure.Figure, color: bool = False) -> np.ndarray:
    """A figure as a grey picture, (height, width), or in colour, (height, width, 3), in uint8."""
    mode = "RGB" if color else "L"
    return np.asarray(Image.open(io.BytesIO(png_of(figure))).convert(mode))


@checks.takes_arrays
def plane(points: Tensor, cells: int, margin: float = 0.15) -> tuple[Tensor, Tensor, Tensor]:
    """A square grid around points in the plane: axes, 2 x (cells,), and nodes, (cells^2, 2)."""
    low = points.min(0).values
    high = points.max(0).values
    centre = (low + high) / 2
    half = (high - low).max() / 2 * (1 + margin)

    u, v = (torch.linspace(c - half, c + half, cells) for c in centre.tolist())
    nodes = torch.stack(torch.meshgrid(u, v, indexing="xy"), -1).reshape(-1, 2)

    return u, v, nodes


def draw_field(
    axes: Axes,
    reconstruct: Callable[[Tensor], Tensor],
    data: Tensor,
    samples: Tensor | None = None,
    log_density: Callable[[Tensor], Tensor] | None = None,
    cells: int = 21,
) -> None:
    """`vector_field` on given axes."""
    if log_density is not None:
        _draw_density(axes, log_density, data)

    axes.scatter(*data.T.numpy(), s=3, color="0.45", alpha=0.4, linewidths=0, zorder=1)
    if samples is not None:
        points = samples.detach().T.cpu().numpy()
        axes.scatter(*points, s=4, color="tab:orange", linewidths=0, zorder=2)

    u, v, nodes = plane(data, cells)
    _draw_arrows(axes, reconstruct, nodes, u[1] - u[0])

    axes.set(
        xlim=(u[0].item(), u[-1].item()),
        ylim=(v[0].item(), v[-1].item()),
        aspect="equal",
        xticks=[],
        yticks=[],
    )


def _draw_density(
    axes: Axes, log_density: Callable[[Tensor], Tensor], data: Tensor, cells: int = 150
) -> None:
    """Twelve levels of a density around data, from 3 % of its maximum."""
    u, v, nodes = plane(data, cells)
    with torch.no_grad():
        density = log_density(nodes).float().exp().reshape(cells, cells)

    highest = density.max().clamp(min=1e-30)
    levels = (torch.linspace(0.03, 1.0, 12) * highest).tolist()
    axes.contourf(u.numpy(), v.numpy(), density.numpy(), levels=levels, cmap="Blues", zorder=0)


def _draw_arrows(
    axes: Axes, reconstruct: Callable[[Tensor], Tensor], nodes: Tensor, cell: Tensor
) -> None:
    """Reconstruction minus input at the nodes of a grid; no arrow is longer than a cell."""
    with torch.no_grad():
        moves = reconstruct(nodes) - nodes

    longest = moves.norm(dim=1).quantile(0.7).clamp(min=1e-12)  # fills a cell of the grid
    lengths = moves.norm(dim=1, keepdim=True).clamp(min=1e-12)
    moves = moves * (longest / lengths).clamp(max=1.0)

    axes.quiver(
        *nodes.T.numpy(),
        *moves.T.numpy(),
        angles="xy",
        scale_units="xy",
        scale=(longest / cell).item(),
        width=0.004,
        color="tab:red",
        zorder=3,
    )


@checks.takes_arrays
def vector_field(
    reconstruct: Callable[[Tensor], Tensor],
    data: Tensor,
    samples: Tensor | None = None,
    log_density: Callable[[Tensor], Tensor] | None = None,
    title: str = "",
) -> Figure:
    """Reconstruction minus input in the plane: how an auto-encoder moves points (2014, 2.2.4).

    Arrows share one scale. Arrows longer than a cell of the grid, three in ten, are cut to it.
    Data are grey and samples orange. The density is blue where it is above 3 % of its maximum. All
    functions take (batch, 2).
    """
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    draw_field(axes, reconstruct, data, samples, log_density)
    axes.set_title(title)

    return figure


@checks.takes_arrays
def spectrum(sigma: Tensor, count: int | None = None) -> Figure:
    """Levels of noise of a code's dimensions, sorted, and the cut after the signal (2014, 7.4)."""
    values = sigma.detach().cpu().flatten().sort().values
    index = range(1, len(values) + 1)
    signal = slice(0, count)
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()

    dots = {"marker": "o", "linestyle": "", "markersize": 4}
    axes.plot(index[signal], values[signal].numpy(), color="tab:blue", label="signal", **dots)
    if count is not None:
        if count < len(values):
            noise = slice(count, None)
            axes.plot(index[noise], values[noise].numpy(), color="0.6", label="noise", **dots)

        cut = {"color": "tab:red", "linestyle": "--", "linewidth": 1}
        axes.axvline(count + 0.5, label=f"{count} dimensions", **cut)
        axes.legend(loc="lower right")

    axes.set(xlabel="dimension of the code, sorted", ylabel="noise $\\sigma_j$", yscale="log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    plain_ticks(axes)

    return figure


def spike_timing(curve: TimingCurve, fitted: Tensor, window: Tensor) -> Figure:
    """Weight change against spike timing, from Eq. 1 and as it was measured (2015, Figure 1).

    Args:
        curve: of the simulation.
        fitted: the exponentials that are nearest to it, at the same dT.
        window: the window of the biological literature, at the same dT.
    """
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    time = curve.change.centre.numpy()

    _draw_means(left, curve.change, r"E[$\Delta W$ | $\Delta T$]")
    left.plot(time, fitted.numpy(), "--", color="0.4", linewidth=1, label="exponentials")
    _draw_by_slope(left, curve)
    left.set(title=r"$\Delta W \propto S_i \dot{V}_j$", ylabel=r"$\Delta W$  [mV/ms]")
    left.legend(loc="upper left", fontsize="small")

    right.plot(time, 100 * window.numpy(), color="tab:red")
    right.set(title="Bi and Poo", ylabel=r"$\Delta W$  [% of the weight]")

    for axes in (left, right):
        axes.axhline(0.0, color="0.6", linewidth=0.8)
        axes.axvline(0.0, color="0.6", linewidth=0.8)
        axes.set(xlabel=r"post- minus pre-synaptic spike $\Delta T$  [ms]")

    return figure


def _draw_means(axes: Axes, means: Means, label: str) -> None:
    """Means and two standard errors."""
    low = means.mean - 2 * means.error
    high = means.mean + 2 * means.error

    (line,) = axes.plot(means.centre.numpy(), means.mean.numpy(), label=label)
    colour = line.get_color()
    axes.fill_between(means.centre.numpy(), low.numpy(), high.numpy(), alpha=0.3, color=colour)


def _draw_by_slope(axes: Axes, curve: TimingCurve) -> None:
    """Mean weight change against mean timing, a dot for each rate of change."""
    time = curve.timing_of_slope.mean
    shown = time.abs() <= curve.change.centre.max()
    change = curve.change_of_slope.mean

    label = r"means given $\dot{V}_j$"
    axes.plot(time[shown].numpy(), change[shown].numpy(), ".", color="tab:orange", label=label)


@checks.takes_arrays
def autocorrelation(curves: dict[str, Tensor], steps: int | None = None) -> Figure:
    """Autocorrelation of chains against the lag, one curve for each name.

    Lags are shown up to `steps`, or up to half a chain.
    """
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()

    for name, rho in curves.items():
        last = steps
        if last is None:
            last = len(rho) // 2

        shown = rho[: last + 1].detach().cpu()
        axes.plot(range(len(shown)), shown.numpy(), label=name)

    axes.axhline(0.0, color="0.6", linewidth=0.8)
    axes.set(xlabel="lag  [steps]", ylabel="autocorrelation")
    axes.legend(loc="upper right")

    return figure


@checks.takes_arrays
def filters(weights: Tensor, shape: tuple[int, ...]) -> Figure:
    """Incoming weights of units, (n, features), as images (thesis, Figure 3.4).

    0 is grey. The largest weight of each unit is black or white.
    """
    w = weights.detach().float().cpu()
    return image_grid(around_grey(w, w.abs().amax(1, keepdim=True)), shape)


def around_grey(x: Tensor, largest: Tensor) -> Tensor:
    """Numbers as pixels: 0 is grey, and what is `largest` in size black or white."""
    return 0.5 + 0.5 * x / largest.clamp(min=1e-12)


def learning_curves(
    curves: dict[str, tuple[Tensor, Tensor]], ylabel: str = "validation error  [%]"
) -> Figure:
    """Mean over seeds and the band from lowest to highest, one curve for each name.

    The vertical axis is logarithmic.

    Args:
        curves: by name, epochs (n,) and fractions (seeds, n), shown in percent; zeros do not show.
    """
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.add_subplot(yscale="log")

    _draw_bands(axes, curves, _percent)
    axes.set(xlabel="epoch", ylabel=ylabel)
    plain_ticks(axes)

    return figure


def score_curves(curves: dict[str, tuple[Tensor, Tensor]], ylabel: str) -> Figure:
    """The same of scores that may be negative, on a plain axis.

    Args:
        curves: by name, epochs (n,) and scores (seeds, n).
        ylabel: what the scores are.
    """
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.add_subplot()

    _draw_bands(axes, curves, Tensor.tolist)
    axes.set(xlabel="epoch", ylabel=ylabel)

    return figure


def _draw_bands(
    axes: Axes,
    curves: dict[str, tuple[Tensor, Tensor]],
    numbers: Callable[[Tensor], list[float]],
) -> None:
    """Draw means over seeds, and bands from lowest to highest."""
    for name, (epochs, values) in curves.items():
        epochs = epochs.tolist()
        middle = numbers(values.mean(0))
        low = numbers(values.amin(0))
        high = numbers(values.amax(0))
        mark = "o" if len(epochs) == 1 else ""  # a line of one point would not be seen
        (line,) = axes.plot(epochs, middle, marker=mark, label=name)
        axes.fill_between(epochs, low, high, color=line.get_color(), alpha=0.2, linewidth=0)

    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="best")


def plain_ticks(axes: Axes) -> None:
    """Numbers at 1, 2, 3 and 5 of each decade of a logarithmic vertical axis, without powers."""
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")


def _percent(fractions: Tensor) -> list[float]:
    """Fractions in percent; NaN for zeros, which a logarithmic axis cannot show."""
    return torch.where(fractions > 0, 100 * fractions.double(), torch.nan).tolist()


def layers(curves: dict[str, dict[int, float]]) -> Figure:
    """Measures of layers, {name: {l: value}}, against the layer; NaN leaves a gap."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()

    for name, values in curves.items():
        axes.plot(list(values), list(values.values()), "o-", markersize=4, label=name)

    for value in (0.0, 1.0):
        axes.axhline(value, color="0.6", linewidth=0.8, zorder=0)

    axes.set(
        xlabel="layer $l$",
        ylabel="cosine, fraction of examples, relative error",
        xticks=sorted(set().union(*curves.values())),
    )
    axes.legend(loc="best")

    return figure


@checks.takes_arrays
def bands(
    panels: dict[tuple[str, str], dict[str, Tensor]], xlabel: str, outside: bool = False
) -> Figure:
    """Means and standard errors over examples, (steps + 1, examples).

    There is one panel for each (title, ylabel).

    Args:
        panels: curves by name, of each panel.
        xlabel: of all panels.
        outside: one legend beside panels that have the same names, where curves fill them.
    """
    figure = Figure(figsize=(4 * len(panels), 3.5), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]

    for axes, ((title, ylabel), curves) in zip(row, panels.items(), strict=True):
        for name, values in curves.items():
            _draw_band(axes, name, values)

        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        if not outside:
            axes.legend(loc="best")

    if outside:
        handles, names = row[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))

    return figure


def _draw_band(axes: Axes, name: str, values: Tensor) -> None:
    """Mean and standard error over examples, (steps + 1, examples)."""
    mean = values.mean(1)
    error = values.std(1) / math.sqrt(values.shape[1])
    low = (mean - error).tolist()
    high = (mean + error).tolist()

    (line,) = axes.plot(mean.tolist(), label=name)
    colour = line.get_color()
    axes.fill_between(range(len(mean)), low, high, alpha=0.3, color=colour, linewidth=0)


def against(
    curves: dict[str, tuple[list[float], list[list[float]]]], xlabel: str, ylabel: str
) -> Figure:
    """Values of several runs at each x as dots, means as a line; one colour for each name."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()

    for name, (x, groups) in curves.items():
        means = [sum(group) / len(group) for group in groups]
        (line,) = axes.plot(x, means, label=name)
        for at, group in zip(x, groups, strict=True):
            axes.plot([at] * len(group), group, "o", markersize=4, color=line.get_color())

    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(loc="best")

    return figure
