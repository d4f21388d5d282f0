"""The page: two answers whose authors are hidden, a choice, what was learned of it, and what an operator asks. Plain files, no build step.

`page.js` begins; `calls` speaks HTTP, `state` is who is asking, `drawing` makes elements; `trying`, `person` and `operating` are the views.
"""
