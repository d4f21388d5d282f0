"""The HTTP surface: what a client sends becomes a plain call, and what comes back becomes a documented answer or error.

    edge ─ admission ─> routes (score, generate, route, feedback, users, ops, compat) ─> scoring, deciding, generating, learning

Routes translate between wire and use case and hold no decisions; use cases know neither HTTP nor pydantic. All mathematics is called
from `models.seam`.
"""
