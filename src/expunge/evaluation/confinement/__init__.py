"""How a sandboxed process is shut in: system calls, the call filter, the layers put together, and the launcher."""
