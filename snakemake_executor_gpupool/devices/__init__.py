"""The pool's devices: what there is, who holds it, who is next.

::

    environment ──► probe ──► strings.parse_managed ──► Allocator ◄── events of the run loop
    (variables)     (NVML)    (which of them are ours)     │  ▲
                                                   effects ▼  │ foreign, lost
                                              run loop ──► DeviceLocks (other runs on this machine)

``model``, ``strings``, ``environment``, ``policy``, ``turn`` and ``allocator`` are
pure; ``probe`` is the only module that touches NVML and ``locks`` the only one
that touches files.
"""
