"""How vLLM serves a base with members' adapters: the command line, and the `members` configuration that reaches it.

    base + adapter folders ─> plan_vllm ─> VllmPlan.command, VllmPlan.members

The adapters are checked against the base's shapes first, from its configuration alone. Nothing here runs vLLM.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from attune.models.alignment.adapter_fit import CONFIG, AdapterMisfit, check_adapter, empty_network
from attune.models.seam.artefacts import it_is

# The ranks for which vLLM compiles LoRA kernels (`--max-lora-rank`); an adapter runs under the next larger one.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True, slots=True)
class VllmPlan:
    """`command` starts the server; `members` is the roster entry of each member, as `service.members.spec` reads it."""

    command: tuple[str, ...]
    members: Mapping[str, Mapping[str, str]]

    def shell(self) -> str:
        """Returns the command for a shell, one option a line."""
        lines: list[str] = []
        for word in self.command:
            if not lines or word.startswith("--") or "=" in word:
                lines.append(("" if not lines else "  " if word.startswith("--") else "    ") + shlex.quote(word))
            else:
                lines[-1] += f" {shlex.quote(word)}"
        return " \\\n".join(lines)


def plan_vllm(
    base: Path | str,
    adapters: Mapping[str, Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8001,
    base_member: str | None = None,
    api_key_env: str | None = None,
) -> VllmPlan:
    """Returns how to serve the members of one base with vLLM.

    Args:
        base: folder or hub id.
        adapters: member to adapter folder.
        host: where vLLM shall listen.
        port: likewise.
        base_member: name under which the base alone is a member too; None leaves it out.
        api_key_env: environment variable with the key that vLLM was started with (`VLLM_API_KEY`); None for no key.

    Raises:
        AdapterMisfit: an adapter does not fit the base, or its rank is beyond vLLM's.
        OSError: there is no such base.
        ValueError: there is no member.
    """
    if not adapters and base_member is None:
        raise ValueError("there is no member to serve; adapters or the base itself are needed")
    network = empty_network(base)
    ranks = {name: check_adapter(name, folder, network).rank for name, folder in adapters.items()}
    highest = max(ranks.values(), default=0)
    fitting = [rank for rank in RANKS if rank >= highest]
    if not fitting:
        name = max(ranks, key=lambda key: ranks[key])
        raise AdapterMisfit(f"member {name!r}: its rank is {highest}; vLLM serves ranks up to {RANKS[-1]}")
    served = base_member or "base"
    command = ["vllm", "serve", str(base), "--host", host, "--port", str(port), "--served-model-name", served]
    if adapters:
        command += ["--enable-lora", "--max-loras", str(len(adapters)), "--max-lora-rank", str(fitting[0])]
        command += ["--lora-modules", *(f"{name}={folder}" for name, folder in adapters.items())]
    key = {} if api_key_env is None else {"api_key_env": api_key_env}
    names = [*([] if base_member is None else [base_member]), *adapters]
    members = {name: {"kind": "openai", "base_url": f"http://{host}:{port}/v1", "model": name, **key} for name in names}
    return VllmPlan(tuple(command), members)


def members_in(folder: Path) -> tuple[Path, dict[str, Path]]:
    """Returns base and adapters of a bundle or of a folder with `base/` and `adapters/<member>/` (or `<member>/`).

    A `roster.json` decides where there is one: its local members that have an adapter.

    Raises:
        ValueError: the folder holds no such thing, or local members of several bases, each of which needs a server of its own.
    """
    roster = folder / "roster.json"
    if roster.is_file():
        entries = json.loads(roster.read_text(encoding="utf-8"))
        local = {name: entry for name, entry in entries.items() if entry.get("kind") == "local" and entry.get("adapter")}
        bases = {entry["base"] for entry in local.values()}
        if len(bases) != 1:
            raise ValueError(f"{roster} has local members with adapters on {len(bases)} bases {sorted(bases)}; vLLM serves one")
        return folder / bases.pop(), {name: folder / entry["adapter"] for name, entry in local.items()}
    for root in (folder, folder / "language_model"):
        if (root / "base" / "config.json").is_file():
            below = root / "adapters" if (root / "adapters").is_dir() else root
            return root / "base", {path.parent.name: path.parent for path in sorted(below.glob(f"*/{CONFIG}"))}
    raise ValueError(f"{folder} holds neither a roster.json nor a base/ with adapters{it_is(folder)}")
