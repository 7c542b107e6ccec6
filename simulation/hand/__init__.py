"""Phantom radiographs of both hands: bones, joints and their damage, X-ray machines and readers."""
