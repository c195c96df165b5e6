#!/usr/bin/env bash
# Installs what the user's repository needs, and then this project, from the revision of the action.
#
# INSTALL: the user's command; empty for requirements.txt, if there is one. TORCH_INDEX: where pip also looks.
set -euo pipefail

if [ -n "${TORCH_INDEX:-}" ]; then
  export PIP_EXTRA_INDEX_URL="$TORCH_INDEX"
fi
if [ -n "${INSTALL:-}" ]; then
  bash -e -c "$INSTALL"
elif [ -f requirements.txt ]; then
  python -m pip install --requirement requirements.txt
fi
python -m pip install "$GITHUB_ACTION_PATH/../../.."
