"""Score models on test sets: zero-shot classification, retrieval and tasks of your own, with confidence intervals."""
