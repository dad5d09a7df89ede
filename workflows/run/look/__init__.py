"""Look at the runs in a root: list, compare, trace and search them."""
