"""From encoded texts to rows of the scorer: a bounded queue, batches by padded tokens, one worker per session."""
