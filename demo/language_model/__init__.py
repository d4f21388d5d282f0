"""The demo's own small language model: corpus, tokenizer, training."""
