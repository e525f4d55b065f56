"""What running code in a sandbox is, whichever target runs it."""
