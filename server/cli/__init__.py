"""The commands of the coordinating centre."""
