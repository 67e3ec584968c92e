"""The filter of system calls (seccomp): no new processes or programs, no sockets, no signals to others, no way around.

What it lets through is everything else: it is a list of what is refused, made for code that came out of a language
model, and no list of what is needed. Numbers are those of the kernel's headers; on a processor that is not in the
tables there is no filter.
"""

from __future__ import annotations

import errno
import os
import struct

from expunge.evaluation.confinement.kernel import Instruction, machine, set_filter

# Name -> numbers on (x86_64, aarch64); None: that processor has no such call.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # processes and programs
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "tkill": (200, 130),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    # the network
    "socket": (41, 198),
    # memory that no limit counts
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    # namespaces, mounts, the machine
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "acct": (163, 89),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    # ways into the kernel that ordinary code has no use for
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "personality": (135, 92),
}
# As if the kernel had none: callers then take the older call, which is filtered (threads), or do without.
_ABSENT = {"clone3": 435, "openat2": 437, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427}
_CLONE, _KILL, _TGKILL, _QUEUE, _TGQUEUE = (56, 220), (62, 129), (234, 131), (129, 138), (297, 240)
_SOCKETPAIR, _PRLIMIT, _PRCTL = (53, 199), (302, 261), (157, 167)
_OPEN, _OPENAT = (2, None), (257, 56)
_WRITES: dict[str, tuple[int | None, int | None]] = {
    "creat": (85, None),
    "truncate": (76, 45),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
_X32 = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # linux/bpf_common.h
_ALLOW, _REFUSE, _KILL_ALL = 0x7FFF0000, 0x00050000, 0x80000000
_THREAD, _UNIX, _PDEATHSIG = 0x00010000, 1, 1
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def install(*, writing: bool) -> None:
    """Filter this process from here on; with ``writing`` False no file can be opened for writing, made or removed.

    `OSError` where the kernel does not let it, or the processor is not in the tables.
    """
    set_filter(program(os.getpid(), writing=writing))


def program(own: int, *, writing: bool) -> list[Instruction]:
    """The filter's instructions for the process ``own``, which may signal itself alone."""
    name = machine()
    if name not in _ARCHITECTURES or struct.pack("=H", 1) != b"\x01\x00":
        raise OSError(f"no filter of system calls is made for {name}")
    place = list(_ARCHITECTURES).index(name)
    lines = [
        Instruction(_LOAD, 0, 0, 4),  # the architecture
        Instruction(_EQUAL, 1, 0, _ARCHITECTURES[name]),
        Instruction(_RETURN, 0, 0, _KILL_ALL),
        Instruction(_LOAD, 0, 0, 0),  # the call's number
    ]
    if name == "x86_64":
        lines += [Instruction(_AT_LEAST, 0, 1, _X32), _refusal(errno.ENOSYS)]
    for number in _ABSENT.values():
        lines += [Instruction(_EQUAL, 0, 1, number), _refusal(errno.ENOSYS)]
    refused = [numbers[place] for numbers in (_REFUSED if writing else {**_REFUSED, **_WRITES}).values()]
    for found in refused:
        if found is not None:
            lines += [Instruction(_EQUAL, 0, 1, found), _refusal()]
    lines += _unless(_CLONE[place], 0, _ANY_BIT, _THREAD)
    for numbers in (_KILL, _TGKILL, _QUEUE, _TGQUEUE):
        lines += _unless(numbers[place], 0, _EQUAL, own)
    lines += _unless(_SOCKETPAIR[place], 0, _EQUAL, _UNIX)
    lines += _unless(_PRLIMIT[place], 0, _EQUAL, 0)
    lines += _if(_PRCTL[place], 0, _EQUAL, _PDEATHSIG)
    if not writing:
        lines += _if(_OPEN[place], 1, _ANY_BIT, _WRITING) + _if(_OPENAT[place], 2, _ANY_BIT, _WRITING)
    return [*lines, Instruction(_RETURN, 0, 0, _ALLOW)]


def _unless(number: int | None, argument: int, test: int, value: int) -> list[Instruction]:
    """Refuse the call unless the test of an argument's low 32 bits holds; the call's number is loaded again after."""
    return _conditional(number, argument, Instruction(test, 1, 0, value))


def _if(number: int | None, argument: int, test: int, value: int) -> list[Instruction]:
    return _conditional(number, argument, Instruction(test, 0, 1, value))


def _conditional(number: int | None, argument: int, test: Instruction) -> list[Instruction]:
    if number is None:
        return []
    return [
        Instruction(_EQUAL, 0, 4, number),
        Instruction(_LOAD, 0, 0, 16 + 8 * argument),
        test,
        _refusal(),
        Instruction(_LOAD, 0, 0, 0),
    ]


def _refusal(number: int = errno.EPERM) -> Instruction:
    return Instruction(_RETURN, 0, 0, _REFUSE | number)
