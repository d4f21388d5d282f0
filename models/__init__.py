"""The offline half of Attune: data, training, portfolio, export and evaluation; makes the bundle that `service` loads."""

from __future__ import annotations
