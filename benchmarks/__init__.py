"""What the kernels cost: machine code and memory traffic counted without a GPU, and times measured on one."""
