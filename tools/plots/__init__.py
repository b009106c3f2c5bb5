"""Figures: functions that turn data into pictures."""
