"""The engine in a web page: the same kernels as WebAssembly, a recorded segment, and the same driver in JavaScript."""
