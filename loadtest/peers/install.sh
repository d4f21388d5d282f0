#!/usr/bin/env bash
# A virtual environment of its own for each peer, below FOLDER (.venv-peers): install.sh [FOLDER] [PEER...]
# LiteLLM stays at the version that was measured.
set -euo pipefail
folder=${1:-.venv-peers}
shift || true
peers=("$@")
[ ${#peers[@]} -gt 0 ] || peers=(litellm litserve)

declare -A packages=(
  [litellm]="litellm[proxy]==1.100.5"
  [litserve]="litserve==0.2.19 onnxruntime==1.31.1 numpy<3"
)
for peer in "${peers[@]}"; do
  [ -n "${packages[$peer]:-}" ] || { echo "no peer $peer; known: ${!packages[*]}" >&2; exit 2; }
  [ -x "$folder/$peer/bin/python" ] || python3 -m venv "$folder/$peer"
  read -ra wanted <<<"${packages[$peer]}"
  "$folder/$peer/bin/pip" install --quiet --disable-pip-version-check "${wanted[@]}"
  echo "$peer is in $folder/$peer"
done
