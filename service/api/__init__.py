"""The HTTP surface: what a client sends becomes a plain call, and what comes back becomes a documented answer or error.

    edge ─ admission ─> one file a route: model ─> checks ─> plain request ─> use case ─> plain result ─> answer

What a client sends and what it is answered stand beside each other; what several routes share is in `prompted` (requests) and
`answer_json`.
A route holds no decisions. Answers repeat the fields of the results that they are made of: what the contract says must not change because
something inside is renamed.
"""
