"""How fast it is on the machine that it runs on, and against what the reference does: `nepa bench`."""
