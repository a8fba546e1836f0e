"""The GPU sheet: what has to be seen on a real GPU (correctness, losses, steps, a training), in parts with time limits.

`python tools/gpu_sheet.py OUT` runs it; docs/how_to/gpu_sheet.md says what each part holds.
"""
