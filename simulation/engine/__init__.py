"""What campaigns run on here: direct calls or Ray, progress, interruption."""
