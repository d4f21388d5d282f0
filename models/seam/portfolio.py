"""`portfolio.json`: the members, what they stand for, their values under every head, and the certificate.

Values that depend on the prompt come from the scorer graph (`<family>_values`, `[M * K]`); those here are their means over
held-out prompts, used where there is no prompt and shown by `GET /portfolio`. `M` members, `K` heads of a family.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.arrays import expect_shape
from attune.models.seam.certificate import Certificate, read_certificate
from attune.models.seam.documents import read_document
from attune.models.seam.families import Families, Row

SCHEMA = 1

Array = NDArray[np.float64]


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
    """

    members: tuple[PortfolioMember, ...]
    values: Mapping[str, Array]
    intervals: Mapping[str, Array]
    certificate: Certificate | None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)

    def certified_ratio(self, family: str, weights: Array) -> float | None:
        """Returns the share of the best possible reward that the best member is proved to give a user with these weights.

        Args:
            family: whose heads the weights are over.
            weights: `[K]`, the posterior mean for instance.

        Returns:
            See `Certificate.certified_ratio`; None too where nothing was proved for this family.
        """
        if self.certificate is None or self.certificate.family != family:
            return None
        return self.certificate.certified_ratio(weights)

    def values_for(self, family: str, prompt: Row | None) -> Array:
        """Returns `[M, K]` predicted rewards of the members for this prompt, or their means without one.

        Raises:
            KeyError: the portfolio has no values of this family.
            ValueError: the graph's output is not of `M * K` values.
        """
        means, name = self.values[family], f"{family}_values"
        if prompt is None or name not in prompt:
            return means
        predicted = np.asarray(prompt[name], dtype=np.float64)
        expect_shape(name, predicted, (means.size,))
        return predicted.reshape(means.shape)


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


def read_portfolio(content: bytes, families: Families) -> Portfolio:
    """Returns the portfolio that `write_portfolio` wrote.

    Raises:
        PortfolioInvalid: another schema, no members, a repeated name, or values that do not fit the families' heads.
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
    if not all(names) or not names or len(set(names)) != len(names):
        raise PortfolioInvalid(f"portfolio.json needs one or more members with names of their own; it has {names}")
    values = {family: _read_array(entries, "values", family, families) for family in families.names}
    intervals = {family: _read_array(entries, "intervals", family, families) for family in families.names}
    for family, widths in intervals.items():
        if np.any(widths < 0):
            raise PortfolioInvalid(f"portfolio.json: intervals of family {family!r} are half widths; the least is {widths.min():g}")
    return Portfolio(members, values, intervals, _read_certificate(data.get("certificate"), len(members), families))


def _read_certificate(document: Any, members: int, families: Families) -> Certificate | None:
    """Returns the certificate; None where the file has none, or where it is of a family that the bundle lacks."""
    if document is None:
        return None
    if not isinstance(document, Mapping):
        raise PortfolioInvalid(f"portfolio.json: certificate is a {type(document).__name__}; an object or null is needed")
    if document.get("family") not in families.names:
        return None
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
    if array.shape != shape or not np.all(np.isfinite(array)):
        raise PortfolioInvalid(f"portfolio.json: {kind} of family {family!r} are {array.shape}; finite {shape} was expected")
    return array
