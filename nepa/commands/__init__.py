"""The commands of `nepa` that are no stages of the graph."""
