"""Online personalization inference: per-user reward scores, and routing over a portfolio of language models.

`attune.service` is what serves, `attune.models` what trains, packs and measures. They share `attune.models.seam` and a bundle folder.
"""

__version__ = "0.2.0"
