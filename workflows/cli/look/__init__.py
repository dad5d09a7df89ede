"""Commands that only look: none of them imports Ray or torch, and none but ``report`` writes anything."""
