"""What runs have left in a root: listed, compared, traced and searched."""
