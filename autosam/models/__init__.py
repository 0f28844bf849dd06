"""Networks: SAM behind one protocol, the prompt generator, and the segmenter that composes them."""
