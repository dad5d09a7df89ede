"""The training of papers as they tell it, with their tables' figures and what had to be changed."""
