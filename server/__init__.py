"""Everything that runs at the coordinating centre."""
