"""The protocol without I/O: what to send, what an answer means, what follows from it.

Functions, tables and one state machine. Nothing here opens a socket, reads a clock or draws a random number: time and
randomness are passed in, so that every decision can be tested with numbers.
"""
