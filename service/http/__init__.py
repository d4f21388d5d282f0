"""What knows ASGI and no user: ids, log lines and errors of every request at the edge, admission before it, events of a stream."""
