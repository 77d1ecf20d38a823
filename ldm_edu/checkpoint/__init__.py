"""Weights on disk: ours, and the layouts of published ones.

From a name to a network: `find` and `hub` (which path), `layouts` (which kind of checkpoint lies there), `single_file`
and `diffusers_folder` (what is in it), `mapped` (a file, opened but not read), `keymaps` (which tensor is which), and
`parts.fill`. `io` writes and reads folders of our own.
"""
