"""What the text nodes do."""
