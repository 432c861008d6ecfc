"""What the mask nodes compute, as plain functions of tensors."""
