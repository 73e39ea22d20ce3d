"""The method as one picture: the paper's Figure 3, redrawn from the tensors of a real image."""

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from torch import Tensor

from adavipro.classifiers import FrozenClassifier
from adavipro.figures import to_picture
from adavipro.masks import MaskGenerator
from adavipro.method import AdaViPro

ROWS = (0.56, 0.06)  # lower edge of the two rows of panels, in shares of the figure
SIDE = (0.135, 0.32)  # width and height of a panel


def _panel(figure: Figure, column: float, row: int, title: str, below: str, learns: bool = False) -> Axes:
    axes = figure.add_axes((0.01 + 0.165 * column, ROWS[row] + 0.04, *SIDE))
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9, fontweight="bold" if learns else "normal")
    axes.set_xlabel(below, fontsize=8)
    axes.spines[:].set_linewidth(2.5 if learns else 0.6)
    return axes


def _arrow(figure: Figure, start: Axes, end: Axes, word: str = "") -> None:
    a, b = start.get_position(), end.get_position()
    y = a.y0 + a.height / 2
    ends = (a.x1, y), (b.x0, y)
    figure.add_artist(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=10, color="0.2"))
    figure.text((a.x1 + b.x0) / 2, y + 0.03, word, ha="center", fontsize=9)


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape[1:]))


@torch.no_grad()
def architecture_figure(classifier: FrozenClassifier, method: AdaViPro, image: Tensor) -> Figure:
    """One image through AdaViPro, a panel for each tensor on its way; what learns has a heavy border.

    Args:
        image: uint8 (3, h, w).

    Raises:
        ValueError: if the method has no mask generator.
    """
    if not isinstance(method.masks, MaskGenerator) or method.edges is None:
        raise ValueError("the method has no mask generator: the architecture is AdaViPro's, not VP's")
    x = classifier.normalise(image[None].to(classifier.mean.device))
    edges, shown, template = method.edges(x), method(x), method.prompt()
    assert shown.logits is not None
    before, after = (classifier(pictures).softmax(1)[0].cpu() for pictures in (x, shown.images))
    figure = Figure(figsize=(11, 4.4))
    grey: dict[str, Any] = {"cmap": "gray", "interpolation": "nearest"}

    picture = _panel(figure, 0, 0, "image x", _shape(x))
    picture.imshow(to_picture(x, classifier)[0].numpy())
    edge = _panel(figure, 1, 0, "edges $m_e$ (fixed)", _shape(edges))
    strength = edges[0].abs().mean(0).cpu()
    edge.imshow(strength.numpy(), vmax=float(strength.quantile(0.99)), **grey)
    hidden = _panel(
        figure, 2, 0, "$F_c(m_e)$", f"{method.masks.convergence.out_channels} x {_shape(x)[4:]}", True
    )
    hidden.imshow(method.masks.convergence(edges)[0].relu().mean(0).cpu().numpy(), **grey)
    logits = _panel(figure, 3, 0, "$F_p(F_c(m_e))$, on - off", _shape(shown.logits), learns=True)
    difference = shown.logits.diff(dim=1)[0, 0].cpu()
    reach = float(difference.abs().max()) or 1.0
    logits.imshow(difference.numpy(), vmin=-reach, vmax=reach, **grey)
    decisions = _panel(figure, 4, 0, "decisions (likelier)", _shape(shown.decisions))
    decisions.imshow(shown.decisions[0, 0].cpu().numpy(), vmin=0, vmax=1, **grey)
    mask = _panel(figure, 5, 0, r"mask $m_p = \Phi(\cdot)$", _shape(shown.mask))
    mask.imshow(shown.mask[0, 0].cpu().numpy(), vmin=0, vmax=1, **grey)

    drawn = _panel(figure, 0, 1, "template P", _shape(template), learns=True)
    drawn.imshow(to_picture(template, classifier)[0].numpy())
    masked = _panel(figure, 1.25, 1, "$P \\cdot m_p$", _shape(template))
    masked.imshow(to_picture(template * shown.mask, classifier)[0].numpy())
    prompted = _panel(figure, 2.5, 1, "$x + P \\cdot m_p$", _shape(shown.images))
    prompted.imshow(to_picture(shown.images, classifier)[0].numpy())
    clip = _panel(figure, 3.75, 1, "frozen CLIP", "image tower and class texts")
    clip.set_facecolor("0.92")
    clip.text(0.5, 0.5, "cosine of\n$f_v(x + P m_p)$\nand $f_t(c)$", ha="center", va="center", fontsize=9)
    scores = _panel(figure, 5, 1, f"scores of {len(after)} classes", "")
    scores.yaxis.tick_right()
    best = after.topk(min(4, len(after))).indices.flip(0)
    places = torch.arange(len(best)).numpy()
    scores.barh(places - 0.2, before[best].numpy(), 0.38, color="0.75", label="before")
    scores.barh(places + 0.2, after[best].numpy(), 0.38, color="0.2", label="after")
    scores.set_yticks(places, [classifier.class_names[int(i)] for i in best], fontsize=7)
    scores.legend(fontsize=7, frameon=False)
    scores.spines[["top", "right"]].set_visible(False)

    top = (picture, edge, hidden, logits, decisions, mask)
    for start, end, word in zip(top[:-1], top[1:], ("$F_e$", "$F_c$", "$F_p$", "", r"$\Phi$"), strict=True):
        _arrow(figure, start, end, word)
    _arrow(figure, drawn, masked, r"$\times\, m_p$")
    _arrow(figure, masked, prompted, "+ x")
    _arrow(figure, prompted, clip)
    _arrow(figure, clip, scores)
    return figure
