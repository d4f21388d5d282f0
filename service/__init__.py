"""The online half of Attune: scores, generates, learns and routes over HTTP from a bundle that `models` made."""

from __future__ import annotations

__version__ = "0.1.0"
