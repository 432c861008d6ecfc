"""The program around the core: what starts it, and what shows it to users."""
