#!/usr/bin/env bash
# Every figure of the README's table, from a server that this script starts on a data directory of its own and stops again.
# ATTUNE_DATA_DIR names where the demo bundle is (make bench builds it there).
set -euo pipefail
cd "$(dirname "$0")/.."

bundles=${ATTUNE_DATA_DIR:-.attune}/bundles
bundle=$(ls -td "$bundles"/bundle-demo-* | head -1)  # the newest, as a server would take it: names end in a hash
scratch=$(mktemp -d)
port=${BENCH_PORT:-8765}
url=http://127.0.0.1:$port

# Or somebody else's server would be measured, while this script's own finds its port taken and ends.
if curl --silent --output /dev/null --max-time 5 "$url/livez"; then echo "something answers on $url already; BENCH_PORT names another port" >&2; exit 1; fi

env -u ATTUNE_CONFIG ATTUNE_DATA_DIR="$scratch" ATTUNE_BUNDLE="$bundle" ATTUNE_PORT="$port" attune serve >"$scratch/log" 2>&1 &
server=$!
trap 'kill -TERM $server 2>/dev/null || true; wait $server 2>/dev/null || true; rm -rf "$scratch"' EXIT
until curl --silent --fail --output /dev/null "$url/readyz"; do
  kill -0 $server 2>/dev/null || { cat "$scratch/log" >&2; exit 1; }
  sleep 0.2
done

title() { printf '\n== %s\n' "$1"; }
title "feedback by ids, one at a time";                    python -m loadtest.feedback --url "$url"
title "score, equal and skewed lengths, 1, 4 and 32 texts a request, against raw ORT"; python -m loadtest.score_ceiling "$bundle" --url "$url"
title "simulated users over HTTP";                         python -m demo simulated-users --url "$url" --users "${BENCH_USERS:-50}"
kill -TERM $server; wait $server || true
title "bytes in Redis";                                    python -m loadtest.state_memory
title "the seam, microseconds";                            python -m loadtest.seam_cost
title "requests from the OpenAPI document";              loadtest/fuzz.sh "$bundle"
title "faults under load, with exact counts";            python -m loadtest.chaos --bundle "$bundle"
title "ten minutes at 60 % of capacity";                 python -m loadtest.soak --bundle "$bundle" --minutes "${BENCH_SOAK_MINUTES:-10}"
title "generation, tokens per second";                     python -m loadtest.generation --bundle "$bundle"
