"""What releases cost, and the chain of what was booked."""
