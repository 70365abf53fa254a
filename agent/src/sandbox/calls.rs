//! The system call filter of an agent whose artifact is mapped.
//!
//! There are two lists. A call on neither of them fails with EPERM, and the agent and its
//! application continue: a library's harmless question, or an application's attempt to open a
//! socket, must not end a machine. Calls that no library of the agent ever makes end the machine at
//! once: whoever makes them is not the agent any more.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::HoldError;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Allowed with any arguments.
const ALLOWED: &[i64] = &[
    // Memory; executable mappings are checked below.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    // Threads, and their ends.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    // Signals to itself: WebAssembly traps use them.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // Descriptors that are already open.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_shutdown,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_eventfd2,
    // Time and random numbers.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
];

#[cfg(target_arch = "x86_64")]
const ALLOWED_BY_ITS_OLD_NAME: &[i64] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_time];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_BY_ITS_OLD_NAME: &[i64] = &[];

/// The agent never makes these.
const FATAL: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pidfd_getfd,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_personality,
];

/// The flags of `clone` for a thread; a new process has none of them.
const THREAD: u64 = (libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND) as u64;

/// Filter the system calls of all threads, present and future. Returns false if this kernel cannot.
pub(crate) fn restrict() -> Result<bool, HoldError> {
    // The strictest filter comes last, because the others still allow installing another one.
    for program in programs()? {
        match seccompiler::apply_filter_all_threads(&program) {
            Ok(()) => {}
            Err(seccompiler::Error::Seccomp(error))
                if matches!(
                    error.raw_os_error(),
                    // The last one, if a filter around this process (a container's) forbids it.
                    Some(libc::ENOSYS | libc::EINVAL | libc::EPERM)
                ) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

fn programs() -> Result<[BpfProgram; 3], BackendError> {
    let own = u64::from(std::process::id());
    Ok([
        filter(
            fatal(own)?,
            SeccompAction::Allow,
            SeccompAction::KillProcess,
        )?,
        // Its flags are in memory, where filters cannot see them; the C library then uses `clone`.
        filter(
            [(libc::SYS_clone3, Vec::new())].into(),
            SeccompAction::Allow,
            SeccompAction::Errno(libc::ENOSYS as u32),
        )?,
        filter(
            allowed(own)?,
            SeccompAction::Errno(libc::EPERM as u32),
            SeccompAction::Allow,
        )?,
    ])
}

fn filter(
    rules: Rules,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let here = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, otherwise, listed, here)?.try_into()
}

fn allowed(own: u64) -> Result<Rules, BackendError> {
    let plain = ALLOWED.iter().chain(ALLOWED_BY_ITS_OLD_NAME);
    let mut rules: Rules = plain.map(|number| (*number, Vec::new())).collect();
    // The first filter kills on executable memory. The limit on data does not count shared memory,
    // or memory that grows by itself like a stack.
    let kinds = (libc::MAP_TYPE | libc::MAP_GROWSDOWN) as u64;
    rules.insert(
        libc::SYS_mmap,
        vec![rule([of_kind(3, kinds, libc::MAP_PRIVATE as u64)?])?],
    );
    rules.insert(libc::SYS_mprotect, Vec::new());
    // `abort` ends the process like this after a panic.
    rules.insert(libc::SYS_tgkill, vec![rule([equal(0, own)?])?]);
    rules.insert(libc::SYS_clone, vec![rule([has(0, THREAD)?])?]);
    rules.insert(libc::SYS_clone3, Vec::new());
    rules.insert(
        libc::SYS_prctl,
        vec![rule([equal(0, libc::PR_SET_NAME as u64)?])?],
    );
    // To read limits, not to set any: the C library asks how long a stack can become.
    rules.insert(libc::SYS_prlimit64, vec![rule([equal(0, 0)?, null(2)?])?]);
    let questions = [
        libc::F_GETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_DUPFD_CLOEXEC,
    ];
    rules.insert(
        libc::SYS_fcntl,
        any_of(1, &questions.map(|one| u64::from(one.cast_unsigned())))?,
    );
    Ok(rules)
}

fn fatal(own: u64) -> Result<Rules, BackendError> {
    let mut rules: Rules = FATAL.iter().map(|number| (*number, Vec::new())).collect();
    let executable = libc::PROT_EXEC as u64;
    for number in [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
        rules.insert(number, vec![rule([has(2, executable)?])?]);
    }
    rules.insert(libc::SYS_tgkill, vec![rule([other_than(0, own)?])?]);
    Ok(rules)
}

fn any_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    values
        .iter()
        .map(|value| rule([equal(argument, *value)?]))
        .collect()
}

fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into())
}

fn equal(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn other_than(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}

fn has(argument: u8, bits: u64) -> Result<SeccompCondition, BackendError> {
    let all = SeccompCmpOp::MaskedEq(bits);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, all, bits)
}

fn of_kind(argument: u8, mask: u64, kind: u64) -> Result<SeccompCondition, BackendError> {
    let masked = SeccompCmpOp::MaskedEq(mask);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, masked, kind)
}

fn null(argument: u8) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)
}
