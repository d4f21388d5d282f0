"""What a request means, in plain requests and results: neither HTTP nor pydantic is known here, nor the routes that call.

    text_scores ─> member_choice ─> member_answers, answer_scores     texts for a person; who answers, written down; the answers, scored
    named_answers ─> forms_of_feedback ─> learning ─> log_replay      the answers that feedback names; what it says of them; learned; again
    people, authors, coverage                                         who is asking; who wrote; where all who asked of late sit

All mathematics is called from `models.seam`.
"""
