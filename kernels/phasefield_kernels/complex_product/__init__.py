"""Complex matrix products, shared by phase_linear and phase_matmul."""
