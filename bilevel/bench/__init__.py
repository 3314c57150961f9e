"""Time the operator and whole models beside other ways to compute them, in one run."""
