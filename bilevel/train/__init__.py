"""Training: a step from one state to the next, and a loop around it with files and progress."""
