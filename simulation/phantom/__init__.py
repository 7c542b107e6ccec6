"""Phantom joint exams: anatomy, acoustics, flow, ultrasound machines and readers."""
