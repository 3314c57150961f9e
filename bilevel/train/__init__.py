"""Training: a pure-looking step, and a loop around it that does files and progress."""
