#!/usr/bin/env bash
# The demo from nothing: each line is a stage. Everything follows from the seeds; training the members takes longest.
set -euo pipefail
cd "$(dirname "$0")/.."

python -m demo language-model          # corpus -> tokenizer -> base model
python -m demo heads                   # answers + simulated users -> every family's heads
python -m demo portfolio --jobs 2      # rewards -> lazy search, a DPO adapter per call -> pruned, certified members and their values
python -m attune.models bundle demo    # trunk + heads + members -> scorer.onnx, probes, manifest
python -m demo report                  # simulated users through the server's own functions -> report.md
python -m demo precision               # what int8 would cost
python -m studies routing "$(ls -td .attune/bundles/bundle-demo-* | head -1)"   # the same users against bandits
