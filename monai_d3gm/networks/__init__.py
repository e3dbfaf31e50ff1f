"""Networks, the scheduler that makes denoisers of them, and their checkpoints."""
