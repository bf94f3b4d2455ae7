"""The version of this package: for its metadata, and for the User-Agent."""

VERSION = "0.1.0"
