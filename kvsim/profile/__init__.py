"""Profiles: what was measured on a machine, as one readable file that the simulator takes in place of estimates.

``fit_steps`` makes tables of measured steps, ``write_profile`` writes the file, ``read_profile`` of
``kvsim.scenario`` reads and checks it. Which number of a file goes where in the simulator:

================================= ======================================================================================
of the profile                    in the simulator
================================= ======================================================================================
``steps``                         durations of steps of the pool's workers (``kvsim.sim.measured``), in place of the
                                  roofline of ``gpu``
``layers``                        durations of steps from times of kernels (``kvsim.sim.layer_steps``), in place of
                                  ``steps``
``host.between_steps``            added to every step: what the engine does between two of them
``host.order``                    passes before a command of the scheduler reaches a worker, also one that starts a
                                  transfer (``kvsim.sim.workers``, ``kvsim.sim.transfers``)
``host.report``                   passes before a worker's report reaches the scheduler, also of a transfer's end
``host.decision``                 ``scheduling.decision`` where that is auto: the largest of all pools' profiles
``message.handshake``             ``transfer.message.handshake`` where that is auto: the largest of all
``message.pack_rate``             gather and scatter of mode message, in place of ``pack_efficiency`` of a GPU
``transports.NAME``               a NIC that the pool may name: ``nic: NAME``
``slowdown``                      the device that the pool's workers share (``kvsim.sim.device``), unless the scenario
                                  gives ``devices.NAME.slowdown``
``all_reduce``                    collectives of tensor parallelism (``kvsim.sim.collectives``), in place of those of
                                  ``gpu``
``model``, ``tensor_parallel``    compared with the scenario: steps were measured for one model only
``measured``, ``residuals``,      for readers: what the tables were fitted to, and how well they do
``notes``, ``versions``, ``date``
================================= ======================================================================================
"""

from typing import TYPE_CHECKING

from kvsim.lazy_names import names_of

if TYPE_CHECKING:
    from kvsim.profile.fields import WorkerProfile
    from kvsim.profile.file_fields import ProfileFile
    from kvsim.profile.fit import FitError, FittedSteps, fit_steps
    from kvsim.profile.points import StepPoint
    from kvsim.profile.write import profile_text, write_profile

__all__ = [
    "FitError",
    "FittedSteps",
    "ProfileFile",
    "StepPoint",
    "WorkerProfile",
    "fit_steps",
    "profile_text",
    "write_profile",
]

__getattr__, __dir__ = names_of(
    __name__,
    {
        "FitError": "kvsim.profile.fit",
        "FittedSteps": "kvsim.profile.fit",
        "ProfileFile": "kvsim.profile.file_fields",
        "StepPoint": "kvsim.profile.points",
        "WorkerProfile": "kvsim.profile.fields",
        "fit_steps": "kvsim.profile.fit",
        "profile_text": "kvsim.profile.write",
        "write_profile": "kvsim.profile.write",
    },
)
