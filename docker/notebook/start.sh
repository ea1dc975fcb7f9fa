#!/usr/bin/env bash
# Starts the notebook server. The home folder is a volume: it is empty at the first start, and keeps the reader's files.
set -euo pipefail

lessons=/opt/first-kubeflow-pipeline
mine=$HOME/first-kubeflow-pipeline
# The lessons are copied only if the home folder has none. The copy gets its name when it is complete. For a fresh copy,
# rename the old one and restart the server.
if [ ! -e "$mine" ]; then
  rm -rf "$mine.part"
  cp -R "$lessons" "$mine.part"
  chmod -R u+w "$mine.part"
  mv "$mine.part" "$mine"
fi

# No token and no password: Kubeflow's gateway checks the user before a request arrives here. Any origin is allowed, so
# the dashboard can show this server in a frame. Outside Kubeflow, use another gateway, or publish the port on loopback.
exec jupyter lab \
  --ip=0.0.0.0 \
  --no-browser \
  --ServerApp.port=8888 \
  --ServerApp.port_retries=0 \
  --ServerApp.root_dir="$HOME" \
  --ServerApp.base_url="${NB_PREFIX:-/}" \
  --ServerApp.allow_origin='*' \
  --ServerApp.allow_remote_access=True \
  --IdentityProvider.token='' \
  --PasswordIdentityProvider.hashed_password='' \
  --ServerApp.quit_button=False \
  --LabApp.default_url=/lab/tree/first-kubeflow-pipeline/notebooks/00_start_here.ipynb
