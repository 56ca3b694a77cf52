"""What agents share: networks, distributions, collecting, advantages, checkpoints, logging."""
