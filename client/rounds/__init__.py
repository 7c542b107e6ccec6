"""From a request to its answer: training, private rounds, secure sums, and what may leave of each."""
