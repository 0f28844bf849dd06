"""Where the weights of each SAM are: located, downloaded, identified."""
