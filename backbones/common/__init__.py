"""Small helpers for all packages: user errors, files, locks, progress, names, text, units."""
