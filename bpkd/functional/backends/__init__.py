"""Faster implementations of the reference: C++ for the CPU (native/), Triton for GPUs (triton/)."""
