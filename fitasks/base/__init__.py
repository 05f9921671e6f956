"""What every room may use: errors, files, locks, streams, checks of what others wrote. Imports no other room."""
