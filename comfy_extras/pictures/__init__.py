"""What the image nodes compute and write, as plain functions of tensors."""
