#!/usr/bin/env bash
# A virtual environment of its own for each peer, below FOLDER (.venv-peers): install.sh [FOLDER] [PEER...]
# Versions are those that were measured. infinity works with the releases of its time alone.
set -euo pipefail
folder=${1:-.venv-peers}
shift || true
peers=("$@")
[ ${#peers[@]} -gt 0 ] || peers=(litellm tensorzero litserve bentoml infinity)

declare -A packages=(
  [litellm]="litellm[proxy]==1.100.5"
  [tensorzero]="tensorzero==2026.6.0"
  [litserve]="litserve==0.2.19 onnxruntime==1.31.1 numpy<3"
  [bentoml]="bentoml==1.4.40 onnxruntime==1.31.1 numpy<3"
  [infinity]="infinity-emb[server]==0.0.78 torch==2.13.0 optimum[onnxruntime]==1.24.0 onnxruntime==1.31.1 transformers==4.48.3 click==8.1.8 fastapi==0.115.14"
)
for peer in "${peers[@]}"; do
  [ -n "${packages[$peer]:-}" ] || { echo "no peer $peer; known: ${!packages[*]}" >&2; exit 2; }
  [ -x "$folder/$peer/bin/python" ] || python3 -m venv "$folder/$peer"
  read -ra wanted <<<"${packages[$peer]}"
  "$folder/$peer/bin/pip" install --quiet --disable-pip-version-check "${wanted[@]}"
  echo "$peer is in $folder/$peer"
done
