"""Other packages' functions, by their own names and layouts, on these kernels."""
