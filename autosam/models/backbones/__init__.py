"""Image backbones of the prompt generator and the plain network."""
