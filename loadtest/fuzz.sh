#!/usr/bin/env bash
# Requests made from the whole OpenAPI document, good and bad, against a server without keys and one with keys: no answer is a 5xx, and
# every one is as documented. More than 20,000 cases of each kind of server with FUZZ_EXAMPLES=450, what an operation takes at most.
#   loadtest/fuzz.sh FOLDER_OF_A_BUNDLE
# Members are a server that answers at once, so that answers have their usual length: a model on this machine would write for seconds, at
# each of thousands of cases. FUZZ_ROSTER names other members. The less the bundle's scorer costs, the more of the time goes into cases.
set -euo pipefail
cd "$(dirname "$0")/.."

bundle=$1
examples=${FUZZ_EXAMPLES:-450}
key=fuzz-key-of-thirty-two-characters
port=${FUZZ_PORT:-8766}
work=$(mktemp -d)
server=
upstream=
trap 'kill -KILL $server $upstream 2>/dev/null || true; rm -rf "$work"' EXIT

roster=${FUZZ_ROSTER:-}
if [ -z "$roster" ]; then
  roster=$work/roster.json
  python -m loadtest.upstream_modes --port $((port + 1)) --mode good >"$work/upstream.log" 2>&1 &
  upstream=$!
  until grep --quiet " on http" "$work/upstream.log"; do
    kill -0 $upstream 2>/dev/null || { cat "$work/upstream.log" >&2; exit 1; }
    sleep 0.2
  done
  python - "$bundle" "http://127.0.0.1:$((port + 1))/v1" >"$roster" <<'PYTHON'
import json, sys
from pathlib import Path

from attune.models.seam.bundle import read_bundle

names = read_bundle(Path(sys.argv[1])).portfolio.names
print(json.dumps({name: {"kind": "openai", "model": name, "base_url": sys.argv[2]} for name in names}))
PYTHON
fi

fuzz() {  # title, key of the server, key of the caller, what else the cases are told
  scratch=$(mktemp -d -p "$work")
  url=http://127.0.0.1:$port
  if curl --silent --output /dev/null --max-time 5 "$url/livez"; then echo "something answers on $url already; FUZZ_PORT names another port" >&2; exit 1; fi
  env ATTUNE_DATA_DIR="$scratch" ATTUNE_BUNDLE="$bundle" ATTUNE_PORT="$port" ATTUNE_API_KEYS="$2" ATTUNE_BATCH_BUDGET_TOKENS=256 \
    ATTUNE_ROSTER="$roster" attune serve >"$scratch/log" 2>&1 &
  server=$!
  until curl --silent --output /dev/null "$url/livez"; do
    kill -0 $server 2>/dev/null || { cat "$scratch/log" >&2; exit 1; }
    sleep 0.2
  done
  printf '== %s\n' "$1"
  python -m loadtest.fuzz --url "$url" --examples "$examples" --processes "${FUZZ_PROCESSES:-2}" ${3:+--key "$3"} ${4:-}
  kill -TERM $server; wait $server || true
}

fuzz "without keys" "" ""
fuzz "with keys, and the right one" "$key:fuzz:admin" "$key"
examples=20
fuzz "with keys, and none" "$key:fuzz:admin" "" --stranger
