"""What tells people apart where few are known: directions seen in their choices, or what no choice was looked at for."""
