#!/bin/sh
# On a machine that may vanish: sh preemptible.sh IMAGES MASKS RUN
# Start the same line again as often as need be (the queue, systemd, a loop): it goes on from the last
# state, at most 10 minutes before the machine went. SIGTERM saves at once and leaves with code 143.
set -e
if ls "$3"/checkpoints/state-*.pt >/dev/null 2>&1; then
  exec python -m autosam.train --resume "$3"
fi
exec python -m autosam.train --data.images "$1" --data.masks "$2" --output "$3" --overwrite true
