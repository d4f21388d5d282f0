"""What a request means, in plain requests and results: neither HTTP nor pydantic is known here, nor the routes that call.

    scoring ─> routing ─> generating          texts for a person; who answers, written down; the answers, scored and kept
    pairs ─> learning ─> replaying            two answers, however named; one comparison, once; a log under a new basis
    people, coverage                          who is asking; where all who asked of late sit

All mathematics is called from `models.seam`.
"""
