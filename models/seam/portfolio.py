"""`portfolio.json` and `values.npz`: the members, what they stand for, their values under every head, and the certificate.

`portfolio.json` has the members' mean values over held-out prompts, `values.npz` what they are worth for a given prompt; a bundle may have
neither, and then scores only. A deployment's roster names the members that serve: those that were never measured begin at a prior.
`M` members, `K` heads of a family.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.certificate import Certificate, read_certificate
from attune.models.seam.documents import read_document
from attune.models.seam.families import Families, Row
from attune.models.seam.json_lines import kind_of
from attune.models.seam.member_values import POOLED, ValueHeads, read_values

SCHEMA = 1

Array = NDArray[np.float64]

PRIOR_STD = 1.0
"""Least standard deviation of an unmeasured member's value under a head; rewards of one prompt's answers differ by about as much."""


class PortfolioInvalid(ValueError):
    """`portfolio.json` does not fit the families of its bundle."""


@dataclass(frozen=True, slots=True)
class PortfolioMember:
    """One member: its name, a sentence on it, and the weights over reward dimensions it was made for."""

    name: str
    description: str
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Portfolio:
    """The members in their fixed order, which is the order of every `[M]` axis.

    Attributes:
        values: family -> `[M, K]` mean reward of each member under each head, standardised units.
        intervals: family -> `[M, K]` half width of the 95 % interval of `values`.
        certificate: what was proved about coverage, or None if nothing was.
        heads: family -> value heads on a prompt's vector; a family without any is worth its means for every prompt.
        unmeasured: names of the members whose values are a prior and nothing more.
        names: of the members, made once because every decision reads them.
    """

    members: tuple[PortfolioMember, ...]
    values: Mapping[str, Array]
    intervals: Mapping[str, Array]
    certificate: Certificate | None
    heads: Mapping[str, ValueHeads] = field(default_factory=dict)
    unmeasured: frozenset[str] = frozenset()
    names: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(member.name for member in self.members))

    def proved_under(self, family: str) -> Certificate | None:
        """Returns the certificate if it is about users of this family, else None."""
        return self.certificate if self.certificate is not None and self.certificate.family == family else None

    def reads_prompt(self, family: str) -> bool:
        """Returns whether the members' values under a family depend on the prompt, by more than was found to be noise."""
        return family in self.heads and self.heads[family].decides

    def values_for(self, family: str, prompt: Row | None) -> Array:
        """Returns `[M, K]` predicted rewards of the members for this prompt, or their means without one.

        Raises:
            KeyError: the portfolio has no values of this family.
            ValueError: the prompt's vector is not of the size that the value heads read.
        """
        means, head = self.values[family], self.heads.get(family)
        if prompt is None or head is None or not head.decides or POOLED not in prompt:
            return means
        return head.at(prompt[POOLED])

    def for_members(self, names: Sequence[str]) -> Portfolio:
        """Returns the portfolio of the members that serve, in this order.

        A member that is not in the portfolio begins at a prior: under each head the mean of all members that were measured (0 where
        none was), with the spread between them, and at least `PRIOR_STD`. The certificate follows, see `Certificate.of_members`.

        Args:
            names: of those that serve, without repeats; none is a portfolio without members.
        """
        if tuple(names) == self.names:
            return self
        index = {name: position for position, name in enumerate(self.names)}
        chosen = [index.get(name) for name in names]
        members = tuple(
            PortfolioMember(name, "", {}) if position is None else self.members[position]
            for name, position in zip(names, chosen, strict=True)
        )
        measured = [position for name, position in index.items() if name not in self.unmeasured]
        values, intervals = {}, {}
        for family, known in self.values.items():
            rest = known[measured]
            mean = rest.mean(axis=0) if measured else np.zeros(known.shape[1])
            spread = np.maximum(PRIOR_STD, rest.std(axis=0, ddof=1)) if len(measured) > 1 else np.full(known.shape[1], PRIOR_STD)
            values[family] = _rows(known, chosen, mean)
            intervals[family] = _rows(self.intervals[family], chosen, 1.96 * spread)
        return replace(
            self,
            members=members,
            values=values,
            intervals=intervals,
            certificate=None if self.certificate is None else self.certificate.of_members(chosen),
            heads={family: head.of(chosen) for family, head in self.heads.items()},
            unmeasured=frozenset(name for name in names if name not in index or name in self.unmeasured),
        )


def no_members(families: Families) -> Portfolio:
    """Returns the portfolio of a bundle that scores and routes nobody."""
    empty = {name: np.zeros((0, len(families[name].heads))) for name in families.names}
    return Portfolio((), empty, dict(empty), None)


def _rows(known: Array, chosen: Sequence[int | None], prior: Array) -> Array:
    return np.array([prior if position is None else known[position] for position in chosen]).reshape(-1, known.shape[1])


def write_portfolio(portfolio: Portfolio) -> bytes:
    """Returns the contents of `portfolio.json`.

    Raises:
        PortfolioInvalid: a number is not finite, which JSON cannot hold.
    """
    document = {
        "schema": SCHEMA,
        "members": [
            {
                "name": member.name,
                "description": member.description,
                "weights": dict(member.weights),
                "values": {family: values[index].tolist() for family, values in portfolio.values.items()},
                "intervals": {family: widths[index].tolist() for family, widths in portfolio.intervals.items()},
            }
            for index, member in enumerate(portfolio.members)
        ],
        "certificate": None if portfolio.certificate is None else portfolio.certificate.document(),
    }
    try:
        return (json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    except ValueError as error:
        raise PortfolioInvalid(f"portfolio.json cannot hold the portfolio of {list(portfolio.names)}: {error}") from error


def read_portfolio(content: bytes, families: Families, values: bytes | None = None) -> Portfolio:
    """Returns the portfolio that `write_portfolio` wrote, which may be of no members.

    Args:
        content: of `portfolio.json`.
        families: of its bundle; values of others are left out.
        values: of `values.npz`, where there is one.

    Raises:
        PortfolioInvalid: another schema, a repeated name, values that do not fit the families' heads or the members, or a certificate
            of a family that is not there.
    """
    data = read_document(content, file="portfolio.json", schema=SCHEMA, invalid=PortfolioInvalid)
    try:
        entries = list(data["members"])
        members = tuple(
            PortfolioMember(str(entry["name"]), str(entry["description"]), {key: float(value) for key, value in entry["weights"].items()})
            for entry in entries
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PortfolioInvalid(f"portfolio.json: members need a name, a description and weights ({error!r})") from error
    names = [member.name for member in members]
    if not all(names) or len(set(names)) != len(names):
        raise PortfolioInvalid(f"portfolio.json needs members with names of their own; it has {names}")
    means = {family: _read_array(entries, "values", family, families) for family in families.names}
    intervals = {family: _read_array(entries, "intervals", family, families) for family in families.names}
    for family, widths in intervals.items():
        if np.any(widths < 0):
            raise PortfolioInvalid(f"portfolio.json: intervals of family {family!r} are half widths; the least is {widths.min():g}")
    certificate = _read_certificate(data.get("certificate"), len(members), families)
    heads = {} if values is None else _read_heads(values, names, families)
    return Portfolio(members, means, intervals, certificate, heads)


def _read_heads(content: bytes, names: Sequence[str], families: Families) -> dict[str, ValueHeads]:
    try:
        members, heads = read_values(content)
    except ValueError as error:
        raise PortfolioInvalid(str(error)) from error
    if sorted(members) != sorted(names):
        raise PortfolioInvalid(f"values.npz is of members {list(members)}; portfolio.json has {list(names)}")
    found = {}
    for family in families.names:
        if family in heads:
            expected = (len(names), len(families[family].heads))
            if heads[family].bias.shape != expected:
                raise PortfolioInvalid(f"values.npz: family {family!r} has heads for {heads[family].bias.shape}; {expected} was expected")
            found[family] = heads[family].of([members.index(name) for name in names])
    widths = {family: head.weight.shape[2] for family, head in found.items()}
    if len(set(widths.values())) > 1:
        raise PortfolioInvalid(f"values.npz: families read vectors of different sizes: {widths}")
    return found


def _read_certificate(document: Any, members: int, families: Families) -> Certificate | None:
    """Returns the certificate; None where the file has none."""
    if document is None:
        return None
    if not isinstance(document, Mapping):
        raise PortfolioInvalid(f"portfolio.json: certificate is {kind_of(document)}; an object or null is needed")
    if document.get("family") not in families.names:
        raise PortfolioInvalid(
            f"portfolio.json: the certificate is of family {document.get('family')!r}, and the bundle has {', '.join(families.names)}; "
            "a portfolio without a certificate has null there"
        )
    try:
        certificate = read_certificate(document)
    except ValueError as error:
        raise PortfolioInvalid(f"portfolio.json: {error}") from error
    heads = len(families[certificate.family].heads)
    if len(certificate.lower) != members or len(certificate.weight_map) != heads:
        raise PortfolioInvalid(
            f"portfolio.json: the certificate is of {len(certificate.lower)} members and {len(certificate.weight_map)} heads of "
            f"{certificate.family!r}; there are {members} and {heads}"
        )
    return certificate


def _read_array(entries: list[Any], kind: str, family: str, families: Families) -> Array:
    try:
        array = np.array([entry[kind][family] for entry in entries], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise PortfolioInvalid(f"portfolio.json: {kind} of family {family!r} are missing or ragged ({error!r})") from error
    shape = (len(entries), len(families[family].heads))
    if not entries:
        return np.zeros(shape)
    if array.shape != shape or not np.all(np.isfinite(array)):
        raise PortfolioInvalid(f"portfolio.json: {kind} of family {family!r} are {array.shape}; finite {shape} was expected")
    return array
