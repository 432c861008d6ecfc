"""What the latent nodes compute, as plain functions of tensors."""
