"""Send a run to a Ray cluster: its code, what is asked for, and the versions it was made with."""
