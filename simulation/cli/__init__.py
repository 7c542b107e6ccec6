"""The commands of a researcher, and of whoever audits privacy."""
