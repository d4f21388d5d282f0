"""What an operator sees: log lines (`logs`), Prometheus metrics (`metrics`) and the timings of one request (`timing`).

The layers below the use cases know nothing of this package: they take plain callbacks, and `service.app` hands them methods of
`metrics.Metrics` that fit. No prompt, answer or user id reaches a line or a label.
"""

from __future__ import annotations
