"""The command lines. Installed, they are the package `detection.tools` and the sub-commands of `resnext-detect`."""
