"""Routes that only the page shipped with the program should use."""
