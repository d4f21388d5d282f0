"""The simplex of users: which member serves them, and how much is proved for them.

Three rewards are one triangle; with more, every three of them are one (all others at 0), at most `MOST_TRIANGLES`; two are a line.
Axis letters: `M` members, `d` rewards, `N` points.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attune.models.portfolio.geometry import simplex_lattice
from attune.models.seam.certificate import Certificate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

STEPS = 60
MOST_TRIANGLES = 6
HEIGHT = np.sqrt(3.0) / 2.0


def serving(certificate: Certificate, weights: Array) -> tuple[NDArray[np.int64], Array]:
    """Returns who serves users with PALM weights `[N, d]`, and the ratio certified for each.

    The member is the one with the greatest mean value; the mean is taken as the middle of its confidence bounds.
    """
    middle = (certificate.lower + certificate.upper) / 2.0
    low, high = (weights @ certificate.lower.T).max(axis=1), (weights @ certificate.vertices.T).max(axis=1)
    ratio = np.maximum(low / np.maximum(high, 1e-12), certificate.worst_ratio)
    return np.argmax(weights @ middle.T, axis=1), np.minimum(ratio, 1.0)


def draw_portfolio(certificate: Certificate, members: tuple[str, ...], path: Path) -> Path:
    """Writes a picture (the suffix says which kind: .png, .svg, .pdf) and returns its path.

    Each row is one line or triangle of users: left by serving member, right by certified ratio; a cross marks the user with the
    least, where it lies on the triangle.
    """
    import matplotlib as mpl  # noqa: PLC0415 - seconds, and only drawing needs it
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    names = certificate.rewards
    faces = list(itertools.combinations(range(len(names)), min(3, len(names))))
    if len(faces) > MOST_TRIANGLES:
        faces = _most_telling(certificate, faces)
    points = [_on_face(face, len(names)) for face in faces]
    shares = [serving(certificate, weights) for weights in points]
    least = min(float(ratio.min()) for _, ratio in shares)
    figure = Figure(figsize=(9.5, (1.6 if len(names) == 2 else 3.6) * len(faces) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_2d(figure.subplots(len(faces), 2))
    colours = mpl.colormaps["tab10" if len(members) <= 10 else "tab20"]
    shown: Any = None
    for row, (face, weights, (member, ratio)) in enumerate(zip(faces, points, shares, strict=True)):
        x, y = _place(weights[:, list(face)])
        size = 30.0 if len(face) == 3 else 90.0
        axes[row, 0].scatter(x, y, c=[colours(int(index) % colours.N) for index in member], s=size, marker="h", linewidths=0)
        shown = axes[row, 1].scatter(x, y, c=ratio, s=size, marker="h", cmap="viridis", vmin=min(least, 0.999), vmax=1.0, linewidths=0)
        outside = 1.0 - certificate.worst_weights[list(face)].sum()
        for axis in axes[row]:
            _label(axis, [names[index] for index in face])
            if outside < 1e-9:
                axis.plot(*_place(certificate.worst_weights[list(face)][None]), marker="x", color="black", markersize=9, markeredgewidth=2)
    axes[0, 0].set_title("serving member")
    axes[0, 1].set_title(f"certified ratio (confidence {certificate.confidence:.0%}), least {certificate.worst_ratio:.3f}")
    handles = [
        mpl.lines.Line2D([], [], color=colours(index % colours.N), marker="h", linestyle="", label=name)
        for index, name in enumerate(members)
        if any(np.any(member == index) for member, _ in shares)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    figure.colorbar(shown, ax=axes[:, 1].tolist(), shrink=0.8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def _most_telling(certificate: Certificate, faces: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Returns the triangles with most of the worst user's weight, then those where most members serve."""
    served = [len(set(serving(certificate, _on_face(face, len(certificate.rewards), 20))[0].tolist())) for face in faces]
    order = sorted(range(len(faces)), key=lambda i: (-round(float(certificate.worst_weights[list(faces[i])].sum()), 6), -served[i]))
    return [faces[i] for i in order[:MOST_TRIANGLES]]


def _on_face(face: tuple[int, ...], dimensions: int, steps: int = STEPS) -> Array:
    lattice = simplex_lattice(len(face), steps)
    weights = np.zeros((len(lattice), dimensions))
    weights[:, list(face)] = lattice
    return weights


def _place(shares: Array) -> tuple[Array, Array]:
    """Returns where shares `[N, 2]` or `[N, 3]` are drawn: along a line, or in a triangle with the third corner on top."""
    if shares.shape[1] == 2:
        return shares[:, 1], np.zeros(len(shares))
    return shares[:, 1] + shares[:, 2] / 2.0, shares[:, 2] * HEIGHT


def _label(axis: Axes, names: list[str]) -> None:
    axis.set_axis_off()
    axis.set_aspect("equal" if len(names) == 3 else "auto")
    axis.set_xlim(-0.12, 1.12)
    axis.set_ylim(-0.12 if len(names) == 3 else -1.0, HEIGHT + 0.1 if len(names) == 3 else 1.0)
    bottom = -0.04 if len(names) == 3 else -0.25
    axis.text(0.0, bottom, names[0], ha="center", va="top")
    axis.text(1.0, bottom, names[1], ha="center", va="top")
    if len(names) == 3:
        axis.text(0.5, HEIGHT + 0.03, names[2], ha="center", va="bottom")
