#!/usr/bin/env bash
# The demo from nothing: each line is a stage. Everything follows from the seeds; minutes on two CPU cores.
set -euo pipefail
cd "$(dirname "$0")/../.."

python -m models train language-model          # corpus -> tokenizer -> base model -> one LoRA adapter per manner
python -m models train demo                    # answers + simulated users -> bradley_terry, micro, vrf heads; members' values
python -m models bundle demo                   # trunk + heads -> scorer.onnx, probes, manifest
python -m models evaluate demo                 # simulated users through the server's own functions -> report.md
python -m models evaluate precision            # what int8 would cost
