"""What this machine has, and whether its kernels compute what the plain path computes."""
