"""The rounds of one group: requests, replies, aggregation, and the journal."""
