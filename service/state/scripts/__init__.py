"""The scripts that run inside Redis: one file per writing operation, each opening with its signature, keys, result and cluster note.

    sum_records.lua ┐
    user_log.lua    ┴─> add_comparison.lua, replay_comparison.lua, take_back.lua, …       write_decision.lua, add_member.lua
                      put before those that need them: what Redis gets is one text, under one hash, run as one step

`sum_records` and `user_log` are no operations: they hold the arithmetic on a user's sum, and the form of log and events.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError


@dataclass(frozen=True, slots=True)
class Script:
    """One script: its text, and the hash by which Redis knows it once it has run there."""

    text: str
    sha: str

    @classmethod
    def load(cls, *names: str) -> Script:
        """Returns one script of these files, one behind the other; the last is the operation, and the others what it uses."""
        text = "\n".join(files(__name__).joinpath(f"{name}.lua").read_text(encoding="utf-8") for name in names)
        return cls(text, hashlib.sha1(text.encode("utf-8"), usedforsecurity=False).hexdigest())

    async def run(self, command: Callable[..., Awaitable[Any]], keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Returns the script's result, in one round trip if the server has it, else in two.

        A server that does not have it (new, restarted, failed over, flushed) gets the whole text with the same keys, so on a cluster it
        reaches the node that needs it.
        """
        try:
            return await command("EVALSHA", self.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return await command("EVAL", self.text, len(keys), *keys, *arguments)


ADD_COMPARISON = Script.load("sum_records", "user_log", "add_comparison")
TAKE_BACK = Script.load("sum_records", "user_log", "take_back")
REPLAY_COMPARISON = Script.load("sum_records", "user_log", "replay_comparison")
READ_LOG = Script.load("user_log", "read_log")
WRITE_DECISION = Script.load("write_decision")
DELETE_USER = Script.load("user_log", "delete_user")
ADD_MEMBER = Script.load("add_member")
CHECK_WRITES = Script.load("check_writes")
PART_USER = Script.load("user_log", "part_user")
DROP_PARTED = Script.load("user_log", "drop_parted")
MARK_DECISION = Script.load("mark_decision")
DROP_DECISION = Script.load("drop_decision")
CHANGE_IF = Script.load("change_if")
REFUSE_SUMS = Script.load("refuse_sums")
RECEIVE_SUMS = Script.load("sum_records", "user_log", "receive_sums")
RECEIVE_ENTRY = Script.load("user_log", "receive_entry")
LAST_WRITE = Script.load("last_write")
