"""Running code in a sandbox, whichever target it is on."""
