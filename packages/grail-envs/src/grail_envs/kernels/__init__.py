"""GPU kernels as problems: tasks in KernelBench's form, answers in Triton, judged without a GPU.

An answer is never run with data. Its Python runs once, in a process that has shapes and no values, and what comes out is a
*plan*: allocations, views and launches (`plan`, `tracing`). Its kernels, and nothing else of it, then run on the data in
another process, in Triton's interpreter (`running`, `interpreter`), and are compiled for a GPU in a third (`compiling`). So
what computes outside of a kernel has nothing to compute with. `docs/kernels.md` has the whole of it.
"""
