"""What an answer is written through: its head and the first piece of its body as one segment, and closing is left to the connection.

    head ─> kept until the end of this turn of the loop ─┬─> body in the same turn: both at once
                                                         └─> none came (a stream that waits for its first piece): the head alone

Two segments wake the one who reads twice and cost the writer two calls to the system, which is a twelfth of a short answer's time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MESSAGE = b"HTTP/"
"""How every head begins, of interim answers too."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
COMMENT = b"3\r\n:\n\n\r\n"
"""Of server-sent events, as the chunk that every piece of them is."""


class AnswerWriter:
    """A transport as uvicorn's writer of answers uses it.

    Args:
        transport: of the connection.
        loop: it runs on.
        finish: called when the writer asks for the connection to be closed.

    Attributes:
        asked: whether it has asked.
    """

    __slots__ = ("_begun", "_finish", "_head", "_loop", "_transport", "asked")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, finish: Callable[[], None]) -> None:
        self._transport = transport
        self._loop = loop
        self._finish = finish
        self._head = b""
        self._begun = b""  # the head of the answer that is being written
        self.asked = False

    def write(self, data: bytes) -> None:
        """Writes a head, later in this turn of the loop at the latest, or a piece of a body; nothing to a connection that is gone.

        Of several requests on one connection uvicorn tells the last alone that the connection was lost.
        """
        if self._transport.is_closing():
            self._head = b""
        elif self._head:
            self._transport.writelines((self._head, data))
            self._head = b""
        elif data.startswith(MESSAGE):
            self._head = data
            self._begun = b"" if data == CONTINUE else data
            self._loop.call_soon(self.flush)
        else:
            self._transport.write(data)

    def probe(self) -> bool:
        """Writes what its reader skips, at this place of the answer; returns False where there is nothing of that kind.

        Before an answer that is `100 Continue`, in one of events a comment.
        """
        if self._begun and b"\r\ncontent-type: text/event-stream" not in self._begun:
            return False
        self.flush()
        self._transport.write(COMMENT if self._begun else CONTINUE)
        return True

    def completed(self) -> None:
        """Takes what comes next for another answer."""
        self.flush()  # an answer to HEAD is a head alone
        self._begun = b""

    def is_closing(self) -> bool:
        """Returns whether nothing more can be written."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Asks for the connection to be closed, once what was written is on its way."""
        self.flush()
        self.asked = True
        self._finish()

    def flush(self) -> None:
        """Writes a head that is kept: before its connection ends or anything is written past this."""
        if self._head and not self._transport.is_closing():
            self._transport.write(self._head)
        self._head = b""
