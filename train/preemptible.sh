#!/bin/sh
# On a preemptible machine: sh preemptible.sh IMAGES MASKS RUN
# Run the same line again (by the queue, systemd or a loop) until it succeeds: it resumes from the last
# state, which is at most 10 minutes old. SIGTERM saves the state and ends with code 143.
set -e
if ls "$3"/checkpoints/state-*.pt >/dev/null 2>&1; then
  exec python -m autosam.train --resume "$3"
fi
exec python -m autosam.train --data.images "$1" --data.masks "$2" --output "$3" --overwrite true
