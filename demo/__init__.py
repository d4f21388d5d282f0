"""The tutorial: a small world of invented people, texts and language models, made with the library's public commands."""
