#!/usr/bin/env bash
# The demo from nothing: each line is a stage. Everything follows from the seeds; aligning the members takes longest.
set -euo pipefail
cd "$(dirname "$0")/.."
work=.attune/demo

# A world to practise on: a language model to align, invented people who compare answers, and prompts.
python -m demo language-model                         # corpus -> tokenizer -> base model
python -m demo language-model --start demo/artefacts/language_model/base --conversations 20000 --seed 1   # which borrows less from other topics
python -m demo data --out "$work"                     # prefs.jsonl, prompts.txt

# What anybody does with comparisons and a language model of their own: these commands, and nothing else.
attune data check "$work/prefs.jsonl"
attune train families "$work/prefs.jsonl" --layers 3,6 --out "$work/families"
attune portfolio build --base demo/artefacts/language_model/base --families "$work/families" --prompts "$work/prompts.txt" --out "$work/portfolio" \
  --set answers=16 --set temperature=0.8 --set pairs=2 --set held_out_answers=1 --set limits.least_diversity=0.2 \
  --set dpo.imitation=1 --set dpo.learning_rate=2e-3 --set dpo.epochs=2 --set dpo.checkpoints=8
attune portfolio show "$work/portfolio"
attune bundle build "$work/families" --portfolio "$work/portfolio" --name own

# The demo that is in the repository knows what invented people are made of: heads with the names of manners, and who is right.
python -m demo heads                                  # answers + simulated users -> every family's heads
python -m demo portfolio --jobs 2                     # rewards -> lazy search, a DPO adapter per call -> pruned, certified members and their values
attune bundle build demo/artefacts --portfolio demo/artefacts --name demo
python -m demo fidelity                               # do members keep manner and subject, and say so where they know nothing?
python -m demo report                                 # simulated users through the server's own functions -> report.md
python -m demo precision                              # what int8 would cost
python -m studies routing "$(ls -td .attune/bundles/bundle-demo-* | head -1)"   # the same users against bandits
