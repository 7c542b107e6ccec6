"""The version of synofed; site and centre must run the same one."""

VERSION = "0.2.0"
