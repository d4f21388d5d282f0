#!/usr/bin/env bash
# The demo from nothing: each line is a stage. Everything follows from the seeds; training the members takes longest.
set -euo pipefail
cd "$(dirname "$0")/.."

python -m attune.models train language-model          # corpus -> tokenizer -> base model
python -m attune.models train demo                    # answers + simulated users -> every family's heads
python -m attune.models train portfolio --jobs 2      # rewards -> lazy search, a DPO adapter per call -> pruned, certified members and their values
python -m attune.models bundle demo                   # trunk + heads + members -> scorer.onnx, probes, manifest
python -m attune.models evaluate demo                 # simulated users through the server's own functions -> report.md
python -m attune.models evaluate routing "$(ls -td .attune/bundles/bundle-demo-* | head -1)"   # the same users against bandits
python -m attune.models evaluate precision            # what int8 would cost
