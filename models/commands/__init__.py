"""The command line of the offline half, one file a group of commands."""
