"""Privacy audited from outside: evidence collected, claims recomputed."""
