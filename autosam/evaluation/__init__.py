"""How good masks are: metrics, scores, contact sheets."""
