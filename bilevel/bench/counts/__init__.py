"""What the kernels would do on a GPU, counted in their machine code; no GPU is needed."""
