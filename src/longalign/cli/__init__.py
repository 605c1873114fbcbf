"""The command line, a file for each command. Nothing imports it except `longalign.__main__`."""
