"""Small helpers for every package: errors for people, files, locks, progress, names, units."""
