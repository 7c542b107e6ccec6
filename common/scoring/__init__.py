"""Grades to votes, votes to answers."""
