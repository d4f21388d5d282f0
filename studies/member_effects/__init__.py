"""What knowing the author of an answer is worth beside its text, on a real set whose authors recur."""
