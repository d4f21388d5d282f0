"""A peer that routes: TensorZero's gateway, which its package embeds, with one function of six variants of equal weight.

    python loadtest/peers/tensorzero_gateway.py UPSTREAM FOLDER      POST /openai/v1/chat/completions

Nothing is observed or written. It chooses its port itself and writes it into FOLDER/port.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

from tensorzero import _start_http_gateway

VARIANTS = 6
CONFIG = """
[gateway]
observability.enabled = false
disable_pseudonymous_usage_analytics = true

[models.fixed]
routing = ["upstream"]

[models.fixed.providers.upstream]
type = "openai"
model_name = "fixed"
api_base = "UPSTREAM/"
api_key_location = "none"

[functions.chat]
type = "chat"
"""

if __name__ == "__main__":
    upstream, folder = sys.argv[1], Path(sys.argv[2])
    variants = [
        f'[functions.chat.variants.v{number}]\ntype = "chat_completion"\nmodel = "fixed"\nweight = 1\n' for number in range(VARIANTS)
    ]
    config = folder / "tensorzero.toml"
    config.write_text("\n".join((CONFIG.replace("UPSTREAM", upstream), *variants)), encoding="utf-8")
    gateway = _start_http_gateway(config_file=str(config), clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False)
    (folder / "port").write_text(str(urlsplit(gateway.base_url).port), encoding="utf-8")
    signal.pause()
