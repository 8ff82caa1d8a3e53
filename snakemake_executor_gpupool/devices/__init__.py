"""The pool's devices: what there is, who holds it, who is next.

::

    settings ──► nvml ──► managed_spec.parse_managed ──► Allocator ◄── events of the run loop
    (variables)  (probe)  (which of them are ours)         │  ▲
                                                   effects ▼  │ foreign, lost
                                              run loop ──► DeviceLocks (other runs on this machine)

``device``, ``device_spec``, ``settings``, ``visibility`` and ``allocation`` are pure;
``nvml`` is the only module that touches NVML and ``locks`` the only one that touches files.
"""
