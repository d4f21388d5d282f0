#!/usr/bin/env bash
# Requests made from the whole OpenAPI document, good and bad, against a server without keys and one with keys: no answer is a 5xx, and
# every one is as documented. About 20,000 cases of each kind of server with FUZZ_EXAMPLES=500, what an operation takes at most.
#   loadtest/fuzz.sh FOLDER_OF_A_BUNDLE
set -euo pipefail
cd "$(dirname "$0")/.."

bundle=$1
examples=${FUZZ_EXAMPLES:-500}
key=fuzz-key-of-thirty-two-characters

fuzz() {  # title, key of the server, key of the caller
  scratch=$(mktemp -d)
  port=${FUZZ_PORT:-8766}
  url=http://127.0.0.1:$port
  env ATTUNE_DATA_DIR="$scratch" ATTUNE_BUNDLE="$bundle" ATTUNE_PORT="$port" ATTUNE_API_KEYS="$2" ATTUNE_BATCH_BUDGET_TOKENS=256 \
    ATTUNE_MAX_NEW_TOKENS=8 ${FUZZ_ROSTER:+ATTUNE_ROSTER="$FUZZ_ROSTER"} attune serve >"$scratch/log" 2>&1 &
  server=$!
  trap 'kill -KILL $server 2>/dev/null || true' EXIT
  until curl --silent --output /dev/null "$url/livez"; do
    kill -0 $server 2>/dev/null || { cat "$scratch/log" >&2; exit 1; }
    sleep 0.2
  done
  printf '== %s\n' "$1"
  python -m loadtest.fuzz --url "$url" --examples "$examples" ${3:+--key "$3"}
  kill -TERM $server; wait $server || true
  rm -rf "$scratch"
}

fuzz "without keys" "" ""
fuzz "with keys, and the right one" "$key:fuzz:admin" "$key"
FUZZ_EXAMPLES=20 examples=20 fuzz "with keys, and none" "$key:fuzz:admin" ""
