"""What bilevel takes beside the formulation that others copy: ratios, measured in one run."""
