"""What a model can do: zero-shot classification, retrieval, metrics with confidence intervals."""
