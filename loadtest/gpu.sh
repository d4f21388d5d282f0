#!/usr/bin/env bash
# Everything that a GPU is asked for, in one call of at most eight minutes: loadtest/gpu.sh [WORKERS]
#   1. the raw graph: fp32, TF32, fp16 fused, by budget, and how far scores move      2. the batcher alone against the raw graph
#   3. what the scorer's process costs beside its device     4. /score of 4 and of 32 candidates and /route through HTTP, with WORKERS processes (8) that take requests
# Needs the extras gpu and train in one virtual environment, and the demo trunk. QUICK=1 runs the same on a CPU in small, to test the script.
set -euo pipefail
cd "$(dirname "$0")/.."
workers=${1:-8}
scratch=$(mktemp -d)
server=
trap 'if [ -n "$server" ]; then kill -TERM $server 2>/dev/null || true; wait $server 2>/dev/null || true; fi; rm -rf "$scratch"' EXIT
python=${PYTHON:-python}
texts=8192 seconds=8 clients=64 limit=20 precisions="fp32 tf32 fp16" half=fp16 gpu=true
if [ -n "${QUICK:-}" ]; then texts=64 seconds=2 clients=4 limit=5 half=int8 precisions="fp32 int8" gpu=false; fi
most=450 failed=0  # seconds of all, less what the end takes

title() { printf '\n== %s (%ss since the start)\n' "$1" "$SECONDS"; }
cut_off() { echo "ended with status $? (124: not finished within its time; what is missing above was not measured)"; failed=1; }
within() {  # at most so many seconds, and no more than are left
  local left=$((most - SECONDS)) wanted=$1
  shift
  if [ "$left" -lt 1 ]; then return 124; fi
  timeout --kill-after=5 $((wanted < left ? wanted : left)) "$@"
}
SECONDS=0
if curl --silent --output /dev/null --max-time 5 http://127.0.0.1:8769/livez; then echo "something answers on port 8769 already" >&2; exit 1; fi
title "bundles"
exact=$(within 120 $python -m attune.service bundle demo --out "$scratch/fp32" | tail -1)
fast=$(within 120 $python -m attune.service bundle demo --out "$scratch/fast" --precision $half | tail -1)
title "raw graph"
# shellcheck disable=SC2086 - a list of words
within 150 $python -m loadtest.raw_precisions "$exact" "$fast" --precisions $precisions --texts $texts --limit-s $limit || cut_off
title "batcher alone, $half"
within 90 $python -m loadtest.score_ceiling "$fast" --precision $half --texts $texts --rounds 2 --clients 128 --laws skewed --responses 32 --open-loop-s 0 || cut_off
title "the scorer's process beside its device: socket, queue and rows, with an engine that only waits"
within 40 $python -m loadtest.scorer_overhead "$fast" --seconds 4 || cut_off
title "through HTTP: $workers processes, $half"
env -u ATTUNE_CONFIG ATTUNE_WORKERS="$workers" ATTUNE_PRECISION=$half ATTUNE_REQUIRE_GPU=$gpu ATTUNE_DATA_DIR="$scratch/data" ATTUNE_BUNDLE="$fast" ATTUNE_PORT=8769 \
  ATTUNE_LOG_LEVEL=warning ATTUNE_MAX_IN_FLIGHT=4096 $python -m attune.service serve >"$scratch/log" 2>&1 &
server=$!
until curl --silent --fail --output /dev/null http://127.0.0.1:8769/livez; do
  kill -0 $server 2>/dev/null || { cat "$scratch/log" >&2; exit 1; }
  [ $SECONDS -lt $((most - 30)) ] || { tail "$scratch/log" >&2; exit 1; }
  sleep 0.5
done
within 100 $python -m loadtest.through_http "$fast" --url http://127.0.0.1:8769 --clients $clients --seconds $seconds || cut_off
title "done"
exit $failed
