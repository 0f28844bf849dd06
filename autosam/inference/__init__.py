"""From a trained run to masks of new images."""
