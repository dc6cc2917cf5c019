"""The command line `halrp-np`: arguments in, tables and messages out; no mathematics."""
