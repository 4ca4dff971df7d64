"""Two states of the results side by side."""
