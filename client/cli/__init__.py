"""The commands of a hospital site."""
