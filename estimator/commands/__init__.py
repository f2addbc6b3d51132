"""The command line, one command a file. A command parses, calls the library, prints, and gives an exit code.

Nothing here imports torch, pydantic or rich before a command runs: `--help` answers at once.
"""
