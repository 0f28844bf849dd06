#!/bin/sh
# Learned prompts on SAM lite, on a CPU: sh laptop.sh IMAGES MASKS
set -e
python -m autosam.train --data.images "$1" --data.masks "$2"
