"""`attune portfolio show`: members, what they were made for, what they are worth, and what is proved, for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attune.models.portfolio.picture import draw_portfolio
from attune.models.seam.artefacts import it_is
from attune.models.seam.bundle import BundleInvalid, read_bundle
from attune.models.seam.certificate import Certificate
from attune.models.seam.counts import counted
from attune.models.seam.families import Families
from attune.models.seam.families_file import read_families
from attune.models.seam.portfolio import Portfolio, PortfolioInvalid, read_portfolio
from attune.models.training.heads import families_of, load_heads

LITTLE = 0.05
"""Shares of what training reaches below this are told as next to nothing."""
ACCOUNT = "palm.json"
"""What `portfolio build` writes of every search, whatever the rewards."""


def load_portfolio(path: Path) -> tuple[Portfolio, Mapping[str, tuple[str, ...]]]:
    """Returns the portfolio of a bundle, or of a folder with `portfolio.json` and heads, and each family's heads.

    Raises:
        BundleInvalid: it is a bundle and damaged.
        PortfolioInvalid: it is neither, or `portfolio.json` does not fit the heads.
    """
    if (path / "manifest.json").is_file():
        bundle = read_bundle(path)
        return bundle.portfolio, {name: bundle.families[name].heads for name in bundle.families.names}
    if not (path / "portfolio.json").is_file() and (path / ACCOUNT).is_file():
        raise PortfolioInvalid(
            f"{path} was built for rewards in Python: its members have no values under heads ({ACCOUNT} is its account). "
            "With --families instead of --rewards the heads of a folder are the rewards, and members are measured under them"
        )
    if not (path / "portfolio.json").is_file():
        raise PortfolioInvalid(f"{path} is neither a bundle nor a folder with portfolio.json{it_is(path)}")
    families = _families_beside(path)
    portfolio = read_portfolio((path / "portfolio.json").read_bytes(), families)
    return portfolio, {name: families[name].heads for name in families.names}


def _families_beside(path: Path) -> Families:
    """Returns the families that a portfolio's values are of: as a bundle has them, or in training's own form."""
    if (path / "families.json").is_file():
        return read_families((path / "families.json").read_bytes(), (path / "families.npz").read_bytes())[0]
    return families_of(load_heads(path)[0])


def describe_portfolio(portfolio: Portfolio, heads: Mapping[str, tuple[str, ...]], family: str | None = None) -> list[str]:
    """Returns lines for a terminal.

    Args:
        portfolio: to describe.
        heads: family -> its heads.
        family: whose values are shown; the certificate's, or the first, if None.

    Raises:
        PortfolioInvalid: there is no such family.
    """
    shown = family or (portfolio.certificate.family if portfolio.certificate else next(iter(heads)))
    if shown not in portfolio.values:
        raise PortfolioInvalid(f"the portfolio has no values of family {shown!r}; it has {', '.join(portfolio.values)}")
    places = _columns(portfolio, shown, heads[shown])
    told = [heads[shown][place] for place in places]
    left_out = f" that are rewards, {len(told)} of {len(heads[shown])}" if len(told) < len(heads[shown]) else ""
    lines = [f"{counted(len(portfolio.members), 'member')}; values under the heads of {shown!r}{left_out}, mean ± 95 %:", ""]
    width = max(len(name) for name in (*portfolio.names, *told))
    lines.append(" " * (width + 2) + "  ".join(f"{name:>{max(13, len(name))}}" for name in told))
    for name, values, intervals in zip(portfolio.names, portfolio.values[shown], portfolio.intervals[shown], strict=True):
        cells = (
            f"{f'{value:+z.3f} ± {half:.3f}':>{max(13, len(head))}}"
            for head, value, half in zip(told, values[places], intervals[places], strict=True)
        )
        lines.append(f"{name:<{width}}  " + "  ".join(cells))
    lines += ["", "made for:"]
    for member in portfolio.members:
        weights = ", ".join(f"{reward} {weight:.2f}" for reward, weight in member.weights.items() if weight >= 0.005)
        lines.append(f"  {member.name:<{width}}  {weights or 'nothing in particular'}. {member.description}")
    lines.append("")
    if portfolio.certificate is None:
        return [*lines, "no certificate: nothing was proved about users whom these members do not suit"]
    proved = portfolio.certificate
    worst = ", ".join(
        f"{reward} {weight:.2f}" for reward, weight in zip(proved.rewards, proved.worst_weights, strict=True) if weight >= 0.005
    )
    how = "nothing estimated" if proved.method == "exact" else f"confidence {proved.confidence:.0%} by {proved.method}'s intervals"
    return [
        *lines,
        f"certificate, over {', '.join(proved.rewards)} of {proved.family!r}, each in [0, 1]; {how}:",
        f"  {whom(proved)} gets at least {proved.worst_ratio:.3f} of the best that training reached, or loses at most {proved.gap:.3f}",
        f"  searched for epsilon {proved.epsilon:g}, delta {proved.delta:g}, with {counted(proved.oracle_calls, 'oracle call')}",
        f"  least for the user with {worst}",
        f"  upper bound of {counted(len(proved.vertices), 'vertex', 'vertices')}",
    ]


def whom(proved: Certificate) -> str:
    """Returns of whom a certificate speaks: of tastes along other heads than its rewards it knows nothing."""
    return "every user whose taste lies along these rewards alone" if len(proved.rest) else "every user"


def what_would_prove_more(worst_ratio: float) -> list[str]:
    """Returns a line of advice where next to nothing is proved of whoever is served worst, else none."""
    if worst_ratio >= LITTLE:
        return []
    prompts = "more prompts narrow the intervals (four times as many halve them)"
    members = "more members (--max-calls) leave fewer rewards without one of their own"
    return [f"this proves next to nothing of whoever is served worst: {prompts}, and {members}"]


def _columns(portfolio: Portfolio, family: str, heads: tuple[str, ...]) -> list[int]:
    """Returns which heads are shown: those that are the certificate's rewards where it is of this family and of some heads alone."""
    proved = portfolio.certificate
    if proved is None or proved.family != family or not set(proved.rewards) <= set(heads):
        return list(range(len(heads)))
    return [heads.index(reward) for reward in proved.rewards]


def portfolio_document(portfolio: Portfolio) -> dict[str, Any]:
    """Returns the same for programs."""
    return {
        "members": [
            {
                "name": member.name,
                "weights": dict(member.weights),
                "values": {family: values[index].tolist() for family, values in portfolio.values.items()},
                "intervals": {family: widths[index].tolist() for family, widths in portfolio.intervals.items()},
            }
            for index, member in enumerate(portfolio.members)
        ],
        "certificate": None if portfolio.certificate is None else portfolio.certificate.summary(),
    }


def show_portfolio(path: Path, *, family: str | None = None, picture: Path | None = None, as_json: bool = False) -> str:
    """Returns what is to be printed, and draws the picture where one is asked for.

    Raises:
        PortfolioInvalid: a picture is asked for and there is no certificate, or the family is unknown.
        BundleInvalid: the bundle is damaged.
        FileNotFoundError: there is neither bundle nor portfolio at `path`.
    """
    portfolio, heads = load_portfolio(path)
    if picture is not None:
        if portfolio.certificate is None:
            raise PortfolioInvalid("there is no certificate to draw")
        draw_portfolio(portfolio.certificate, portfolio.names, picture)
    if as_json:
        return json.dumps(portfolio_document(portfolio), indent=1, sort_keys=True)
    lines = describe_portfolio(portfolio, heads, family)
    return "\n".join(lines if picture is None else [*lines, "", f"picture: {picture}"])


__all__ = ["BundleInvalid", "PortfolioInvalid", "describe_portfolio", "load_portfolio", "show_portfolio", "whom"]
